//! `imdslet-sidecar address`: gives the pod's loopback the address of Azure's metadata service.
//!
//! It is the init container of link-local mode, the one thing of imdslet's that has a capability
//! (NET_ADMIN). It adds one address to one interface and ends.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use imdslet_core::names::{ADDRESS_CONTAINER, LINK_LOCAL};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// The address of Azure's metadata service.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// `lo`, in every network namespace: the kernel registers it before any other
/// (`LOOPBACK_IFINDEX`, linux/include/net/net_namespace.h).
const LOOPBACK: u32 = 1;

/// Where a process sees the sockets of its own network namespace, one a line.
const SOCKETS: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// A setting of the machine as a whole: the kernel shows it in the first network namespace and in
/// no other (`net_core_table` against `netns_core_table`, linux/net/core/sysctl_net_core.c).
const MACHINE_SETTING: &str = "/proc/sys/net/core/netdev_max_backlog";

/// The kubelet's port, which the control plane and metrics need: every distribution keeps it.
const KUBELET: u16 = 10250;

// linux/include/uapi/linux/netlink.h, rtnetlink.h, if_addr.h.
const NLMSG_ERROR: u16 = 2;
const RTM_NEWADDR: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_ACK | NLM_F_EXCL | NLM_F_CREATE`.
const FLAGS: u16 = 0x1 | 0x4 | 0x200 | 0x400;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const AF_INET: u8 = 2;
const RT_SCOPE_HOST: u8 = 254;

/// What the request's answer is known by.
const SEQUENCE: u32 = 1;
/// Header, `ifaddrmsg`, and two attributes of an IPv4 address.
const REQUEST: usize = 16 + 8 + 2 * 8;

/// What became of the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is there now.
    Now,
    /// It was there: the container runs for a second time in this pod.
    Before,
}

/// Why the loopback does not have the address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// On a node the address would take the metadata service from everything that runs there.
    #[error(
        "this is a node's network ({0}), and the address would hide the node's own metadata \
         service; remove hostNetwork from the pod, or its annotation imdslet.dev/endpoint"
    )]
    Node(&'static str),
    /// What would tell a node's network cannot be read.
    #[error("cannot tell whether this is a node's network: {path} cannot be read ({source})")]
    Unknown {
        /// The file.
        path: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The process has not the one capability that it needs.
    #[error(
        "the kernel refuses to add {LINK_LOCAL} to the loopback interface, since this \
         process lacks NET_ADMIN; let init container {ADDRESS_CONTAINER} keep runAsUser 0 and \
         capabilities.add [NET_ADMIN], which a policy or another webhook took, or use \
         imdslet.dev/endpoint: env"
    )]
    NotPermitted,
    /// The kernel cannot be asked, or refuses otherwise.
    #[error("{LINK_LOCAL} cannot be added to the loopback interface ({0})")]
    Refused(io::Error),
}

impl AddressError {
    /// Whether the answer is no, rather than that it could not be found out.
    #[must_use]
    pub fn is_no(&self) -> bool {
        matches!(self, Self::Node(_) | Self::NotPermitted)
    }
}

/// Adds 169.254.169.254/32 to `lo` of this network namespace, unless it is a node's.
///
/// # Errors
///
/// [`AddressError`]; nothing was changed.
pub fn add_address() -> Result<Added, AddressError> {
    refuse_node()?;
    match ask(&request(ADDRESS)) {
        Ok(()) => Ok(Added::Now),
        Err(Errno::EXIST) => Ok(Added::Before),
        Err(Errno::PERM) => Err(AddressError::NotPermitted),
        Err(errno) => Err(AddressError::Refused(errno.into())),
    }
}

/// The webhook leaves pods with hostNetwork alone; this is for those that came another way.
fn refuse_node() -> Result<(), AddressError> {
    if fs::exists(MACHINE_SETTING)
        .map_err(|source| AddressError::Unknown { path: MACHINE_SETTING, source })?
    {
        return Err(AddressError::Node("the machine's first network namespace"));
    }
    for path in SOCKETS {
        match fs::read_to_string(path) {
            Ok(sockets) if listens(&sockets, KUBELET) => {
                return Err(AddressError::Node("a kubelet listens here"));
            }
            Ok(_) => {}
            // A kernel without IPv6 has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(AddressError::Unknown { path, source }),
        }
    }
    Ok(())
}

/// Whether one of `sockets` (`proc_pid_net(5)`: `sl local_address rem_address st …`, in
/// hexadecimal) listens on `port`, which is state 0A.
fn listens(sockets: &str, port: u16) -> bool {
    let end = format!(":{port:04X}");
    sockets.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&end)) && fields.nth(1) == Some("0A")
    })
}

/// Has the kernel do what `request` says.
fn ask(request: &[u8]) -> Result<(), Errno> {
    // No protocol is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    send(&socket, request, SendFlags::empty())?;
    // The kernel has answered when `send` returns. The answer quotes the request.
    let mut answer = [0; 256];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    answer.get(..length).and_then(verdict).unwrap_or(Err(Errno::BADMSG))
}

/// The message that adds `address`, with all of its bits as the network's, to the loopback.
fn request(address: Ipv4Addr) -> Vec<u8> {
    let mut message = Vec::with_capacity(REQUEST);
    // nlmsghdr: length, type, flags, sequence, port (the kernel fills in none).
    message.extend(u32::try_from(REQUEST).unwrap_or_default().to_ne_bytes());
    message.extend(RTM_NEWADDR.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    message.extend(SEQUENCE.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    // ifaddrmsg: family, prefix length, flags, scope, interface.
    message.extend([AF_INET, 32, 0, RT_SCOPE_HOST]);
    message.extend(LOOPBACK.to_ne_bytes());
    // rtattr: length with these four bytes, type, value.
    for attribute in [IFA_LOCAL, IFA_ADDRESS] {
        message.extend(8_u16.to_ne_bytes());
        message.extend(attribute.to_ne_bytes());
        message.extend(address.octets());
    }
    message
}

/// Reads the kernel's acknowledgement; `None` where this is none of our request.
fn verdict(answer: &[u8]) -> Option<Result<(), Errno>> {
    let (_, answer) = answer.split_at_checked(4)?;
    let (kind, answer) = answer.split_first_chunk::<2>()?;
    let (_, answer) = answer.split_at_checked(2)?;
    let (sequence, answer) = answer.split_first_chunk::<4>()?;
    let (_, answer) = answer.split_at_checked(4)?;
    let (error, _) = answer.split_first_chunk::<4>()?;
    if u16::from_ne_bytes(*kind) != NLMSG_ERROR || u32::from_ne_bytes(*sequence) != SEQUENCE {
        return None;
    }
    // A negative number of errno.h; 0 is success.
    match i32::from_ne_bytes(*error) {
        0 => Some(Ok(())),
        error @ -4095..0 => Some(Err(Errno::from_raw_os_error(-error))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn the_request_is_right_to_the_byte() {
        assert_eq!(ADDRESS.to_string(), LINK_LOCAL);
        let expected = [
            [40, 0, 0, 0, 20, 0, 0x05, 0x06],
            [1, 0, 0, 0, 0, 0, 0, 0],
            [2, 32, 0, 254, 1, 0, 0, 0],
            [8, 0, 2, 0, 169, 254, 169, 254],
            [8, 0, 1, 0, 169, 254, 169, 254],
        ];
        assert_eq!(request(ADDRESS), expected.concat());
    }

    #[test]
    fn the_kernels_answer_is_read() {
        let answer = |kind: u16, sequence: u32, error: i32| {
            let mut bytes = 36_u32.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0, 0]);
            bytes.extend(sequence.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(error.to_ne_bytes());
            bytes
        };
        let cases = [
            (answer(NLMSG_ERROR, SEQUENCE, 0), Some(Ok(()))),
            (answer(NLMSG_ERROR, SEQUENCE, -17), Some(Err(Errno::EXIST))),
            (answer(NLMSG_ERROR, SEQUENCE, -1), Some(Err(Errno::PERM))),
            (answer(NLMSG_ERROR, SEQUENCE, i32::MIN), None),
            (answer(NLMSG_ERROR, 2, 0), None),
            (answer(3, SEQUENCE, 0), None),
            (Vec::new(), None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(verdict(&bytes), expected, "{bytes:?}");
        }
        let whole = answer(NLMSG_ERROR, SEQUENCE, 0);
        for length in 0..whole.len() {
            assert_eq!(whole.get(..length).and_then(verdict), None, "{length} bytes");
        }
    }

    #[test]
    fn a_kubelet_is_known_by_the_socket_that_it_listens_on() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n";
        let cases = [
            ("   0: 00000000:280A 00000000:0000 0A 00000000:00000000 00:00000000 0", true),
            (
                "   3: 00000000000000000000000000000000:280A \
                 00000000000000000000000000000000:0000 0A 00000000:00000000",
                true,
            ),
            // Connected from that port, to that port, and another that listens.
            ("   1: 0100007F:280A 0100007F:C350 01 00000000:00000000", false),
            ("   1: 0100007F:C350 0100007F:280A 01 00000000:00000000", false),
            ("   2: 0100007F:2808 00000000:0000 0A 00000000:00000000", false),
            ("", false),
        ];
        for (line, expected) in cases {
            assert_eq!(listens(&format!("{head}{line}\n"), KUBELET), expected, "{line}");
        }
    }
}
