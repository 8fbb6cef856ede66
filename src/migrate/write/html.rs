//! A page to read, in one file: no script, and nothing is loaded.

mod drawing;

use std::fmt::Write;

use super::super::{Phase, Plan, Used};

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
  svg { max-width: 100%; margin-top: 1.5rem }
  svg text { font: 13px system-ui, sans-serif; fill: currentColor }
  svg text.name { font-weight: 600 }
  svg rect, svg path { fill: none; stroke: #888; stroke-width: 1.2 }
  pre { overflow-x: auto; border-left: 3px solid #888a; padding: .3rem .8rem }
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
    page.push_str("</table>\n");
    steps(&mut page, plan);
    page.push_str("</html>\n");
    page
}

/// From the workloads over their accounts to the identity: drawn, and as a list that has all.
fn way(used: &Used) -> String {
    let mut list = String::new();
    for (account, workloads) in &used.accounts {
        write!(list, "<li>service account <code>{}</code><ul>", escaped(account)).ok();
        for workload in workloads {
            write!(list, "<li><code>{}</code>", escaped(workload)).ok();
        }
        list.push_str("</ul>");
    }
    let resource = used.resource_id.as_deref().unwrap_or("no spec.resourceID");
    format!(
        "{}<details><summary>{}: <code>{}</code></summary><ul>{list}</ul></details>\n",
        drawing::draw(used),
        escaped(&used.identity),
        escaped(resource)
    )
}

fn steps(page: &mut String, plan: &Plan) {
    for phase in Phase::ALL {
        writeln!(page, "<h2>{}</h2>\n<ol>", phase.heading()).ok();
        for step in plan.steps.iter().filter(|step| step.phase == phase) {
            let (title, why) = (escaped(&step.title), escaped(&step.why));
            let commands = escaped(&step.commands.join("\n"));
            writeln!(page, "<li><b>{title}.</b> {why}<pre>{commands}</pre>").ok();
        }
        page.push_str("</ol>\n");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
