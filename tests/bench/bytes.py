"""Where the bytes of a static program are: `bytes.py PROGRAM`, of a program whose symbols were kept.

A symbol counts for the package that its path begins with. What generic code is instantiated for does
not show, so that a client's HTTP counts as HTTP; what has no symbol is told by section.
"""

import collections
import re
import subprocess
import sys

# Packages by what they are there for, as regular expressions of whole names.
PARTS = {
    "TLS to Entra ID": r"rustls\w*|webpki\w*|tokio_rustls|hyper_rustls|ring|untrusted",
    "Entra ID's protocol (azure_identity and what it needs)": r"azure_\w+|typespec\w*|url|idna\w*|icu_\w+|utf8_iter|smallvec|form_urlencoded|percent_encoding|time\w*|rand\w*|chacha20|async_lock|event_listener\w*|futures\w*|getrandom",
    "certificates: PKCS#12, PEM, X.509": r"p12_keystore|x509_\w+|asn1_rs|der\w*|oid_registry|nom|num_\w+|pkcs\w+|cms|spki|const_oid|pbkdf2|scrypt|salsa20|aes\w*|cbc|des|rc2|cipher|sha1|sha2|digest|hmac|hybrid_array|block_\w+|inout|ghash|polyval|ctr|universal_hash|pem\w*|md\w*",
    "HTTP, client and server": r"hyper|hyper_util|http|http_body\w*|httparse|axum\w*|tower\w*|matchit|mime|bytes",
    "the runtime": r"tokio|tokio_util|mio|socket2|signal_hook_registry|slab|parking_lot\w*",
    "JSON": r"serde\w*|zmij|itoa|ryu|memchr|base64",
    "the log": r"tracing\w*|sharded_slab|thread_local|once_cell|lazy_static|nu_ansi_term",
    "backtraces of the standard library": r"gimli|addr2line|rustc_demangle|miniz_oxide|libunwind|object",
    "the rest of the standard library": r"core|alloc|std|std_detect|hashbrown|compiler_builtins|adler2",
    "our own code": r"imdslet_\w+|uuid|rustix|zeroize",
}
# Of the C and assembly that ring has.
RING = re.compile(r"ring_core|_?_?ecp_nistz|p256|p384|nistz|fiat_|x25519|fe_|fe4|ge_|_?aesni|_?vpaes|aes_|bn_|mulx?4x|sqrx?8x|gcm_|poly|_?chacha|sha\d|table_select|LIMBS?_|beeu|k25519|Bi$|_mul|_sqr")
# Sections that have no symbols.
SECTIONS = {".eh_frame": "tables to unwind the stack", ".eh_frame_hdr": "tables to unwind the stack",
            ".rela.dyn": "relocations: it is loaded anywhere"}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def part_of(symbol):
    """The part that `symbol` counts for. `<&T as Trait>::f` is of the package of `T`, and where that
    is a parameter, of the one of `Trait`."""
    for path in re.findall(r"(?:^|[<&( ])((?:[a-z_][a-z0-9_]*)(?=::))", symbol):
        for part, packages in PARTS.items():
            if re.fullmatch(packages, path):
                return part
    if RING.match(symbol):
        return "TLS to Entra ID"
    return "the C library" if re.fullmatch(r"[\w.]+", symbol) else "not told apart"


def main():
    program = sys.argv[1]
    bytes_of = collections.Counter()
    for line in run("nm", "--print-size", "--demangle", "--defined-only", program).splitlines():
        fields = re.match(r"\w+ (\w+) ([^bB]) (.*)", line)
        if fields:
            bytes_of[part_of(fields[3])] += int(fields[1], 16)
    in_file = 0
    for line in run("size", "-A", program).splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1].isdigit() and fields[0] not in (".bss", ".tbss") and int(fields[2]) > 0:
            in_file += int(fields[1])
            if fields[0] in SECTIONS:
                bytes_of[SECTIONS[fields[0]]] += int(fields[1])
    bytes_of["constants without a symbol, and padding"] = in_file - sum(bytes_of.values())
    print("| what | bytes | |\n| --- | --- | --- |")
    for part, count in bytes_of.most_common():
        print(f"| {part} | {count:,} | {count / in_file:.0%} |")
    print(f"| in all | {in_file:,} | |")


if __name__ == "__main__":
    main()
