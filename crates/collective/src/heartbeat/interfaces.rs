//! The addresses of this host.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

/// The addresses under which other hosts may reach this one; that of the loopback only where there
/// are no others.
///
/// # Errors
/// The system does not say.
pub(super) fn addresses() -> io::Result<Vec<IpAddr>> {
    let all = all_addresses()?;
    let (own, others): (Vec<IpAddr>, Vec<IpAddr>) = all.into_iter().partition(IpAddr::is_loopback);
    Ok(if others.is_empty() { own } else { others })
}

fn all_addresses() -> io::Result<Vec<IpAddr>> {
    let mut first = ptr::null_mut();
    // SAFETY: the pointer is written, and the list that it is set to is freed below, once.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = first;
    // SAFETY: each entry is valid until the list is freed, or the pointer null at its end.
    while let Some(entry) = unsafe { next.as_ref() } {
        let is_up = entry.ifa_flags & libc::IFF_UP as libc::c_uint != 0;
        // SAFETY: the address belongs to the entry.
        found.extend(unsafe { address(entry.ifa_addr) }.filter(|_| is_up));
        next = entry.ifa_next;
    }
    // SAFETY: `first` is the list that getifaddrs made, and nothing of it is used any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// An address as Rust writes it, unless it is of another family, or counts on one link only.
///
/// # Safety
/// The pointer is null, or to an address of the family that it names.
unsafe fn address(socket: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: by the contract above.
    match i32::from(unsafe { socket.as_ref() }?.sa_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is one.
            let socket = unsafe { &*socket.cast::<libc::sockaddr_in>() };
            Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(socket.sin_addr.s_addr))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let socket = unsafe { &*socket.cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(socket.sin6_addr.s6_addr);
            (!address.is_unicast_link_local()).then_some(IpAddr::V6(address))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn this_host_can_be_reached_under_its_addresses() {
        let addresses = addresses().unwrap();
        assert!(!addresses.is_empty());
        for address in addresses {
            let listener = TcpListener::bind((address, 0)).unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        }
    }
}
