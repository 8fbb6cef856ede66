//! A shell script of `az` commands.

use std::fmt::Write;

use super::super::Plan;
use super::quoted;

/// What comes before the commands. Azure answers 409 while another change of the same identity is
/// under way, by this script or by anyone; creating what is there already changes nothing.
const HEAD: &str = r#"#!/bin/sh
# Made by `imdslet migrate`. It may be run again: what exists already is left as it is.
# Needs: az, logged in, with the role Managed Identity Contributor on these identities.
set -eu

# credential SUBSCRIPTION RESOURCE_GROUP IDENTITY NAME ISSUER SUBJECT AUDIENCE
credential() {
  tries=1
  while ! said=$(az identity federated-credential create --subscription "$1" \
    --resource-group "$2" --identity-name "$3" --name "$4" --issuer "$5" \
    --subject "$6" --audiences "$7" --output none 2>&1); do
    case $said in
      # Azure takes one credential for an issuer and a subject, under whatever name, and calls
      # another one a conflict too, which no waiting mends.
      *"already exists"*) again=no ;;
      *"(409)"* | *Conflict* | *ConcurrentFederatedIdentityCredentials*) again=yes ;;
      *) again=no ;;
    esac
    if [ "$again" = no ]; then
      if there "$@"; then return; fi
      tries=6
    fi
    if [ "$tries" -ge 6 ]; then
      printf '%s\n' "$said" "FAILED: $3: $6" >&2
      exit 1
    fi
    sleep $((tries * 5))
    tries=$((tries + 1))
  done
  printf '%s\n' "$3: $6"
}

# there SUBSCRIPTION RESOURCE_GROUP IDENTITY NAME ISSUER SUBJECT AUDIENCE
there() {
  tab=$(printf '\t')
  az identity federated-credential list --subscription "$1" --resource-group "$2" \
    --identity-name "$3" --query '[].[issuer, subject, audiences[0], name]' --output tsv |
    while IFS=$tab read -r issuer subject audience name; do
      if [ "$issuer $subject $audience" = "$5 $6 $7" ] && [ "$name" != "$4" ]; then
        printf '%s\n' "$3: $6 is there already, as $name"
      fi
    done | grep .
}

"#;

pub(super) fn write(plan: &Plan) -> String {
    let mut script = HEAD.to_owned();
    for line in plan.unplaced() {
        writeln!(script, "# {line}").ok();
    }
    for (place, credential) in plan.placed() {
        let words = [
            place.subscription,
            place.resource_group,
            place.identity,
            credential.name.as_deref().unwrap_or_default(),
            &credential.issuer,
            &credential.subject,
            credential.audiences.first().map_or("", String::as_str),
        ];
        script.push_str("credential");
        for word in words {
            script.push(' ');
            script.push_str(&quoted(word));
        }
        script.push('\n');
    }
    script
}
