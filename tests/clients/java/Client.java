import com.azure.core.credential.TokenRequestContext;
import com.azure.core.credential.TokenCredential;
import com.azure.identity.DefaultAzureCredentialBuilder;
import com.azure.identity.ManagedIdentityCredentialBuilder;
import java.time.Duration;

/** Asks azure-identity for tokens: {@code Client CREDENTIAL SELECTOR…}, as in ../node/client.js. */
public class Client {
    public static void main(String[] args) {
        for (int at = 1; at < args.length; at++) {
            String[] selector = args[at].split("=", 2);
            String value = selector.length > 1 ? selector[1] : "";
            String rest;
            try {
                var request = new TokenRequestContext().addScopes(System.getenv("SCOPE"));
                var token = credential(args[0], selector[0], value).getToken(request).block(Duration.ofSeconds(60));
                rest = "\"token\": \"" + token.getToken() + "\", \"expires_on\": " + token.getExpiresAt().toEpochSecond();
            } catch (Exception error) {
                rest = "\"error\": \"" + String.valueOf(error).replaceAll("[^ -~]|[\"\\\\]", " ") + "\"";
            }
            System.out.println("{\"selector\": \"" + selector[0] + "\", " + rest + "}");
        }
        System.exit(0);
    }

    private static TokenCredential credential(String credential, String name, String value) throws Exception {
        if (credential.equals("default")) {
            return new DefaultAzureCredentialBuilder().build();
        }
        var builder = new ManagedIdentityCredentialBuilder();
        switch (name) {
            case "client_id" -> builder.clientId(value);
            case "resource_id" -> builder.resourceId(value);
            // Version 1.5 has no such method: this file must compile against both.
            case "object_id" -> builder.getClass().getMethod("objectId", String.class).invoke(builder, value);
            default -> { }
        }
        return builder.build();
    }
}
