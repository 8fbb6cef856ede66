//! The plan as text that people, Azure's tools and the emulator read.

mod az;
mod bicep;
mod html;
mod steps;
mod terraform;

use std::collections::BTreeMap;
use std::io;

use super::Plan;
use crate::emulator::FederatedCredential;

/// How the plan is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A shell script of `az` commands, one after another; it may be run again.
    #[default]
    Az,
    /// A Bicep file, to be deployed to each resource group that it names.
    Bicep,
    /// Terraform resources for the provider azurerm.
    Terraform,
    /// Everything: credentials, decisions, who uses what. The emulator reads the credentials.
    Json,
    /// A page to read, in one file.
    Html,
    /// What to do, step by step, with the commands: the move, and the ways back.
    Steps,
}

impl Plan {
    /// Writes the plan. As JSON that of a large cluster is never a text as well.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write_to(&self, out: &mut dyn io::Write, format: Format) -> io::Result<()> {
        let text = match format {
            Format::Json => {
                serde_json::to_writer_pretty(&mut *out, self)?;
                return out.write_all(b"\n");
            }
            Format::Az => az::write(self),
            Format::Bicep => bicep::write(self),
            Format::Terraform => terraform::write(self),
            Format::Html => html::write(self),
            Format::Steps => steps::write(self),
        };
        out.write_all(text.as_bytes())
    }

    /// Where to go on from a plan in this format, for the terminal.
    #[must_use]
    pub fn next(format: Format) -> Option<&'static str> {
        (format != Format::Steps).then_some(
            "next: the same command with -o steps prints the move, the way back and what to remove, \
             with every command",
        )
    }

    /// What was read, what is needed and what was left aside, for the terminal.
    #[must_use]
    pub fn summary(&self) -> String {
        let counted = |counts: &BTreeMap<String, usize>| {
            let counted: Vec<_> = counts.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
            counted.join(", ")
        };
        let mut lines = vec![format!("read: {}", counted(&self.read))];
        if !self.ignored.is_empty() {
            lines.push(format!("left aside: {}", counted(&self.ignored)));
        }
        if !self.absent.is_empty() {
            let absent = self.absent.join(", ");
            lines.push(format!("none read, so not planned with: {absent}"));
        }
        lines.push(format!(
            "plan: {} federated credentials for {} identities, {} things to decide",
            self.federated_credentials.len(),
            self.identities.len(),
            self.decisions.len()
        ));
        lines.join("\n")
    }

    /// The credentials whose place in Azure is known, each with it. Azure allows one change of an
    /// identity at a time; those of one come one after another.
    fn placed(&self) -> impl Iterator<Item = (Place<'_>, &FederatedCredential)> {
        self.federated_credentials.iter().filter_map(|credential| {
            Some((Place::of(credential.resource_id.as_deref()?)?, credential))
        })
    }

    /// Lines about the credentials that [`Plan::placed`] leaves out.
    fn unplaced(&self) -> impl Iterator<Item = String> {
        self.federated_credentials.iter().filter(|one| one.resource_id.is_none()).map(|one| {
            format!(
                "LEFT OUT: AzureIdentity {} has no spec.resourceID: {} for client id {}",
                one.identity.as_deref().unwrap_or_default(),
                one.subject,
                one.client_id
            )
        })
    }
}

/// Where an identity is in Azure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    subscription: &'a str,
    resource_group: &'a str,
    identity: &'a str,
}

impl<'a> Place<'a> {
    /// The objects were read with their resource ids checked, so there is always one.
    fn of(resource_id: &'a str) -> Option<Self> {
        let segments: Vec<_> = resource_id.split('/').collect();
        match segments.as_slice() {
            ["", _, subscription, _, resource_group, _, _, _, identity] => {
                Some(Self { subscription, resource_group, identity })
            }
            _ => None,
        }
    }

    /// The resource id, with the letter case of the words between the names that Terraform's
    /// azurerm insists on; `az identity show` itself says `resourcegroups`. Source: go-azure-helpers,
    /// `resourcemanager/commonids/user_assigned_identity.go`.
    fn resource_id(&self) -> String {
        let Self { subscription, resource_group, identity } = self;
        format!(
            "/subscriptions/{subscription}/resourceGroups/{resource_group}/providers/\
             Microsoft.ManagedIdentity/userAssignedIdentities/{identity}"
        )
    }
}
