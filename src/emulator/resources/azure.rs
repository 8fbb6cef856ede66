//! Microsoft's own services that tokens are asked for, in every cloud.
//!
//! Sources: Azure's documentation, "Azure services that can use managed identities to access other
//! services", and of each service "authenticate with Microsoft Entra ID"; the application ids of
//! "Verify first-party Microsoft applications in sign-in reports".

/// A service of Microsoft's. Every tenant knows it.
struct Service {
    /// Its application ids; a sovereign cloud may have another.
    app_ids: &'static [&'static str],
    /// Its URIs, without the slash at the end.
    uris: &'static [&'static str],
    /// Domains whose hosts are resources too: each instance is one, under its own name. There are
    /// few such services: no vault and no database server is one.
    instances: &'static [&'static str],
}

/// What is in a row that says nothing else.
const NONE: Service = Service { app_ids: &[], uris: &[], instances: &[] };

#[rustfmt::skip]
const SERVICES: &[Service] = &[
    // Azure Resource Manager.
    Service {
        app_ids: &["797f4846-ba00-4fd7-ba43-dac1f8f63013"],
        uris: &[
            "https://management.azure.com", "https://management.core.windows.net",
            "https://management.usgovcloudapi.net", "https://management.core.usgovcloudapi.net",
            "https://management.chinacloudapi.cn", "https://management.core.chinacloudapi.cn",
        ],
        ..NONE
    },
    // Key Vault, and Managed HSM.
    Service {
        app_ids: &["cfa8b339-82a2-471a-a3c9-0fc0be7a4093", "7e7c393b-45d0-48b1-a35e-2905ddf8183c"],
        uris: &[
            "https://vault.azure.net", "https://vault.usgovcloudapi.net", "https://vault.azure.cn",
            "https://managedhsm.azure.net", "https://managedhsm.usgovcloudapi.net",
        ],
        ..NONE
    },
    // Storage.
    Service {
        app_ids: &["e406a681-f3d4-42a8-90b6-c2b029497af1"],
        uris: &["https://storage.azure.com"],
        instances: &[
            "blob.core.windows.net", "dfs.core.windows.net", "file.core.windows.net",
            "queue.core.windows.net", "table.core.windows.net",
            "blob.core.usgovcloudapi.net", "dfs.core.usgovcloudapi.net",
            "file.core.usgovcloudapi.net", "queue.core.usgovcloudapi.net",
            "table.core.usgovcloudapi.net",
            "blob.core.chinacloudapi.cn", "dfs.core.chinacloudapi.cn", "file.core.chinacloudapi.cn",
            "queue.core.chinacloudapi.cn", "table.core.chinacloudapi.cn",
        ],
    },
    // Disks, while they are exported and imported.
    Service { uris: &["https://disk.azure.com"], ..NONE },
    // Azure SQL.
    Service {
        app_ids: &["022907d3-0f1b-48f7-badc-1ba6abab6d66"],
        uris: &[
            "https://database.windows.net", "https://database.usgovcloudapi.net",
            "https://database.chinacloudapi.cn",
        ],
        ..NONE
    },
    // PostgreSQL and MySQL.
    Service {
        app_ids: &["123cd850-d9df-40bd-94d5-c9f07b7fa203"],
        uris: &[
            "https://ossrdbms-aad.database.windows.net",
            "https://ossrdbms-aad.database.usgovcloudapi.net",
            "https://ossrdbms-aad.database.chinacloudapi.cn",
        ],
        ..NONE
    },
    // Cosmos DB.
    Service {
        app_ids: &["a232010e-820c-4083-83bb-3ace5fc29d0b", "57506a73-e302-42a9-b869-6f12d9ec29e9"],
        uris: &["https://cosmos.azure.com"],
        instances: &["documents.azure.com", "documents.azure.us", "documents.azure.cn"],
    },
    // Redis.
    Service { uris: &["https://redis.azure.com"], ..NONE },
    // Service Bus, and Event Hubs.
    Service {
        app_ids: &["80a10ef9-8168-493d-abf9-3297c4ef6e3c", "80369ed6-5f11-4dd9-bef3-692475845e77"],
        uris: &["https://servicebus.azure.net", "https://eventhubs.azure.net"],
        instances: &[
            "servicebus.windows.net", "servicebus.usgovcloudapi.net", "servicebus.chinacloudapi.cn",
        ],
    },
    // Event Grid.
    Service { uris: &["https://eventgrid.azure.net"], ..NONE },
    // App Configuration.
    Service {
        app_ids: &["35ffadb3-7fc1-497e-b61b-381d28e744cc"],
        uris: &[
            "https://azconfig.io", "https://appconfig.azure.com", "https://appconfig.azure.us",
            "https://appconfig.azure.cn",
        ],
        instances: &["azconfig.io", "azconfig.azure.us", "azconfig.azure.cn"],
    },
    // Container Registry.
    Service { uris: &["https://containerregistry.azure.net"], ..NONE },
    // Kubernetes: the API servers of AKS.
    Service { app_ids: &["6dae42f8-4368-4678-94ff-3960e28e3630"], ..NONE },
    // Azure Monitor: Log Analytics, metrics, ingestion.
    Service {
        app_ids: &["ca7f3f0b-7d91-482c-8e09-c5d840d0eac5"],
        uris: &[
            "https://api.loganalytics.io", "https://api.loganalytics.us",
            "https://api.loganalytics.azure.cn", "https://api.applicationinsights.io",
            "https://monitor.azure.com", "https://monitor.azure.us", "https://monitor.azure.cn",
            "https://metrics.monitor.azure.com", "https://prometheus.monitor.azure.com",
        ],
        ..NONE
    },
    // Data Explorer.
    Service {
        app_ids: &["2746ea77-4702-4b45-80ca-3c97e680e8b7"],
        instances: &["kusto.windows.net", "kusto.usgovcloudapi.net", "kusto.chinacloudapi.cn"],
        ..NONE
    },
    // Data Lake, and Synapse.
    Service { uris: &["https://datalake.azure.net"], ..NONE },
    Service {
        app_ids: &["1ac05c7e-12d2-4605-bf9d-549d7041c6b3"],
        uris: &[
            "https://dev.azuresynapse.net", "https://dev.azuresynapse.usgovcloudapi.net",
            "https://dev.azuresynapse.azure.cn",
        ],
        ..NONE
    },
    // Databricks.
    Service { app_ids: &["2ff814a6-3304-4ab8-85cb-cd0e6f879c1d"], ..NONE },
    // Analysis Services, and Power BI.
    Service {
        app_ids: &["00000009-0000-0000-c000-000000000000"],
        uris: &["https://analysis.windows.net/powerbi/api"],
        instances: &["asazure.windows.net", "asazure.usgovcloudapi.net", "asazure.chinacloudapi.cn"],
    },
    // AI: Cognitive Services with OpenAI, Machine Learning, Search.
    Service {
        app_ids: &["7d312290-28c8-473c-a0ed-8e53749b6d6d"],
        uris: &[
            "https://cognitiveservices.azure.com", "https://cognitiveservices.azure.us",
            "https://cognitiveservices.azure.cn", "https://ai.azure.com", "https://ml.azure.com",
            "https://search.azure.com", "https://search.azure.us", "https://search.azure.cn",
        ],
        ..NONE
    },
    // SignalR, Web PubSub, Communication Services.
    Service {
        uris: &[
            "https://signalr.azure.com", "https://webpubsub.azure.com",
            "https://communication.azure.com",
        ],
        ..NONE
    },
    // Digital Twins, and IoT Hub.
    Service {
        app_ids: &["0b07f429-9f4b-4714-9392-cc5e8e80c8b0"],
        uris: &["https://digitaltwins.azure.net", "https://iothubs.azure.net"],
        ..NONE
    },
    // Batch.
    Service {
        uris: &[
            "https://batch.core.windows.net", "https://batch.core.usgovcloudapi.net",
            "https://batch.chinacloudapi.cn",
        ],
        ..NONE
    },
    // Health Data Services: each service is a resource of its own.
    Service {
        uris: &["https://azurehealthcareapis.com", "https://dicom.healthcareapis.azure.com"],
        instances: &["azurehealthcareapis.com"],
        ..NONE
    },
    // Purview, Maps, Attestation, Confidential Ledger.
    Service {
        uris: &[
            "https://purview.azure.net", "https://atlas.microsoft.com", "https://attest.azure.net",
            "https://confidential-ledger.azure.com",
        ],
        ..NONE
    },
    // Azure DevOps.
    Service {
        app_ids: &["499b84ac-1321-427f-aa17-267ca6975798"],
        uris: &["https://app.vssps.visualstudio.com"],
        ..NONE
    },
    // Microsoft Graph, and Azure AD Graph before it.
    Service {
        app_ids: &["00000003-0000-0000-c000-000000000000", "00000002-0000-0000-c000-000000000000"],
        uris: &[
            "https://graph.microsoft.com", "https://graph.microsoft.us",
            "https://dod-graph.microsoft.us", "https://microsoftgraph.chinacloudapi.cn",
            "https://graph.windows.net", "https://graph.chinacloudapi.cn",
        ],
        ..NONE
    },
    // Microsoft 365, and Dynamics.
    Service {
        uris: &[
            "https://outlook.office.com", "https://outlook.office365.com",
            "https://manage.office.com",
        ],
        instances: &["sharepoint.com", "sharepoint.us", "sharepoint.cn", "dynamics.com"],
        ..NONE
    },
    // Where a managed identity is the federated credential of an application.
    Service {
        uris: &[
            "api://AzureADTokenExchange", "api://AzureADTokenExchangeUSGov",
            "api://AzureADTokenExchangeChina",
        ],
        ..NONE
    },
];

/// Whether it is a service of Microsoft's: a URI with or without the slash at its end, or an
/// application id.
pub(super) fn has(resource: &str) -> bool {
    let bare = resource.strip_suffix('/').unwrap_or(resource);
    let host = bare.strip_prefix("https://").unwrap_or_default();
    SERVICES.iter().any(|service| {
        service.uris.contains(&bare)
            || service.app_ids.iter().any(|id| id.eq_ignore_ascii_case(resource))
            || service.instances.iter().any(|domain| is_host_of(host, domain))
    })
}

fn is_host_of(host: &str, domain: &str) -> bool {
    let name = host.strip_suffix(domain).and_then(|name| name.strip_suffix('.'));
    name.is_some_and(imdslet_core::id::is_domain_name)
}

#[cfg(test)]
mod tests {
    use imdslet_core::id::is_guid;

    use super::*;

    #[test]
    fn each_row_is_written_as_it_is_looked_up() {
        for service in SERVICES {
            assert!(service.app_ids.iter().all(|id| is_guid(id) && *id == id.to_lowercase()));
            for uri in service.uris {
                assert!(uri.contains("://") && !uri.ends_with('/') && has(uri), "{uri}");
            }
            for domain in service.instances {
                assert!(has(&format!("https://one.{domain}")), "{domain}");
            }
        }
    }
}
