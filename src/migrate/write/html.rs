//! A page to read, in one file: no script, and nothing is loaded.

use std::fmt::Write;

use super::super::{Plan, Used};

const HEAD: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<title>imdslet migrate</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
  code { font-size: .9em; overflow-wrap: anywhere }
  table { border-collapse: collapse; width: 100% }
  th, td { border-bottom: 1px solid #8886; padding: .4rem .6rem; text-align: left; vertical-align: top }
  .way { display: grid; grid-template-columns: 1fr 3rem 1fr; align-items: center; margin: 1rem 0 }
  .way > div { border: 1px solid #888a; border-radius: .4rem; padding: .5rem .8rem }
  .way > span { text-align: center }
  ul { margin: 0; padding-left: 1.2rem }
</style>
<h1>What must exist in Azure, and what must be decided</h1>
";

pub(super) fn write(plan: &Plan) -> String {
    let mut page = HEAD.to_owned();
    writeln!(page, "<p>{}</p>", escaped(&plan.summary()).replace('\n', "<br>\n")).ok();
    page.push_str("<h2>To decide</h2>\n");
    if plan.decisions.is_empty() {
        page.push_str("<p>Nothing.</p>\n");
    } else {
        page.push_str("<table>\n<tr><th>Why<th>Object<th>What to do\n");
        for decision in &plan.decisions {
            writeln!(
                page,
                "<tr><td>{}<td><code>{}</code><td>{}",
                decision.reason.as_str(),
                escaped(&decision.object),
                escaped(&decision.message)
            )
            .ok();
        }
        page.push_str("</table>\n");
    }
    page.push_str("<h2>Who uses which identity</h2>\n");
    for used in &plan.identities {
        page.push_str(&way(used));
    }
    page.push_str("<h2>Federated credentials</h2>\n<table>\n");
    page.push_str("<tr><th>Identity<th>Subject<th>Issuer<th>Audience<th>Name\n");
    for credential in &plan.federated_credentials {
        page.push_str("<tr>");
        for cell in [
            credential.identity.as_deref().unwrap_or_default(),
            &credential.subject,
            &credential.issuer,
            &credential.audiences.join(", "),
            credential.name.as_deref().unwrap_or_default(),
        ] {
            write!(page, "<td><code>{}</code>", escaped(cell)).ok();
        }
        page.push('\n');
    }
    page.push_str("</table>\n</html>\n");
    page
}

/// From the workloads over their accounts to the identity.
fn way(used: &Used) -> String {
    let mut accounts = String::new();
    for (account, workloads) in &used.accounts {
        write!(accounts, "<li>service account <code>{}</code><ul>", escaped(account)).ok();
        for workload in workloads {
            write!(accounts, "<li><code>{}</code>", escaped(workload)).ok();
        }
        accounts.push_str("</ul>");
    }
    let resource = used.resource_id.as_deref().unwrap_or("no spec.resourceID");
    format!(
        "<div class=\"way\"><div><ul>{accounts}</ul></div><span>{}<br>→</span>\
         <div><b>{}</b><br>client id <code>{}</code><br><code>{}</code></div></div>\n",
        escaped(used.source),
        escaped(&used.identity),
        escaped(&used.client_id),
        escaped(resource)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
