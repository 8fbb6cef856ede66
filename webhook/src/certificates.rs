//! The serving certificate in the cluster: a Secret that both replicas share, and the `caBundle` of
//! the webhook configuration.
