//! An HTTPS client that trusts what it is told to.
