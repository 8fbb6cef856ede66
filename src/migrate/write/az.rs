//! A shell script of `az` commands.

use std::collections::BTreeMap;
use std::fmt::Write;

use imdslet_core::shell::quoted;

use super::super::Plan;
use super::super::limit::LIMIT;
use super::Place;

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

/// Nothing is created where not all of it can be: the plan knows one cluster, and Azure all of them.
const ROOM: &str = r#"# room SUBSCRIPTION RESOURCE_GROUP IDENTITY ISSUER NEEDED
room() {
  others=$(az identity federated-credential list --subscription "$1" --resource-group "$2" \
    --identity-name "$3" --query "length([?issuer != '$4'])" --output tsv) || others=
  case $others in
    # Who may not list them learns from Azure what there is no room for.
    '' | *[!0-9]*) return ;;
  esac
  if [ $((others + $5)) -gt LIMIT ]; then
    printf '%s\n' "FAILED: $3 has $others credentials of other issuers and needs $5 of this one: Azure takes LIMIT" >&2
    full=yes
  fi
}

"#;

pub(super) fn write(plan: &Plan) -> String {
    let mut script = HEAD.to_owned();
    script.push_str(&ROOM.replace("LIMIT", &LIMIT.to_string()));
    room(&mut script, plan);
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
        command(&mut script, "credential", &words);
    }
    script
}

/// Looks first whether each identity has room for all of its credentials.
fn room(script: &mut String, plan: &Plan) {
    let mut needed: BTreeMap<_, (Place<'_>, &str, usize)> = BTreeMap::new();
    for (place, credential) in plan.placed() {
        let same = [place.subscription, place.resource_group, place.identity];
        let same = same.map(str::to_ascii_lowercase);
        needed.entry(same).or_insert((place, &credential.issuer, 0)).2 += 1;
    }
    script.push_str("full=no\n");
    for (place, issuer, count) in needed.into_values() {
        let count = count.to_string();
        let Place { subscription, resource_group, identity } = place;
        command(script, "room", &[subscription, resource_group, identity, issuer, &count]);
    }
    script.push_str("[ \"$full\" = no ] || exit 1\n\n");
}

fn command(script: &mut String, name: &str, words: &[&str]) {
    script.push_str(name);
    for word in words {
        write!(script, " {}", quoted(word)).ok();
    }
    script.push('\n');
}
