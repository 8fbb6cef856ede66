//! Any text in the annotation: it is read, or refused with a reason.

#![no_main]

use imdslet_sidecar::fuzzing::identities;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(why) = identities(text) {
        assert!(!why.is_empty());
    }
});
