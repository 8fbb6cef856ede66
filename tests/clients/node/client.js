// Asks a client for tokens: `client.js PACKAGE CREDENTIAL SELECTOR…`, where SELECTOR is `none` or
// NAME=VALUE with NAME client_id, object_id or resource_id. The scope is the variable SCOPE.
//
// Prints a line of JSON for each selector: {"selector", "token", "expires_on"} with the expiry in
// seconds since the Unix epoch as the client tells it, or {"selector", "error"}.

const { createRequire } = require("node:module");
const installed = createRequire(`${process.env.MODULES}/`);

const [packageName, credential, ...selectors] = process.argv.slice(2);
const client = installed(packageName);
const scope = process.env.SCOPE;

function managed(name, value) {
  if (name === "none") return new client.ManagedIdentityCredential();
  // The first versions take the id itself, all later ones take it too.
  if (name === "client_id") return new client.ManagedIdentityCredential(value);
  const options = name === "object_id" ? { objectId: value } : { resourceId: value };
  return new client.ManagedIdentityCredential(options);
}

async function msal(name, value) {
  const parameter = {
    client_id: "userAssignedClientId",
    object_id: "userAssignedObjectId",
    resource_id: "userAssignedResourceId",
  }[name];
  const parameters = parameter ? { managedIdentityIdParams: { [parameter]: value } } : {};
  const application = new client.ManagedIdentityApplication(parameters);
  const answer = await application.acquireToken({ resource: scope.replace(/\/\.default$/, "") });
  return { token: answer.accessToken, expires: answer.expiresOn.getTime() };
}

async function ask(name, value) {
  if (credential === "msal") return msal(name, value);
  const one = credential === "default" ? new client.DefaultAzureCredential() : managed(name, value);
  const answer = await one.getToken(scope);
  return { token: answer.token, expires: answer.expiresOnTimestamp };
}

(async () => {
  for (const selector of selectors) {
    const [name, value] = selector.split("=");
    let line;
    try {
      const { token, expires } = await ask(name, value);
      line = { token, expires_on: Number.isNaN(expires) ? "NaN" : Math.floor(expires / 1000) };
    } catch (error) {
      line = { error: String(error) };
    }
    console.log(JSON.stringify({ selector: name, ...line }));
  }
  process.exit(0);
})();
