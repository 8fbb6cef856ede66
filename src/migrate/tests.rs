use super::*;

#[test]
fn names_are_what_azure_takes_stay_the_same_and_differ() {
    let named = |account: &ObjectName, client: &str, issuer: &str| {
        credential_name(account, client, issuer, "subject")
    };
    let account = ObjectName::new("web", "shop.v2");
    let name = named(&account, "c", "https://issuer.example");
    assert_eq!(name, "imdslet-web-shop-v2-7a7f6e5d");
    assert_ne!(name, named(&account, "c", "https://issuer.example/"));
    assert_ne!(name, named(&account, "d", "https://issuer.example"));
    let long = named(&ObjectName::new("n".repeat(63), "s".repeat(253)), "c", "i");
    assert_eq!(long.len(), 120);
}
