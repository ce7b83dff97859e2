// SPDX-License-Identifier: Apache-2.0
//! Why there was no answer, in words that tell what to do: the certificate, the protocol, the network.

use std::io;

use rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::url::{Origin, Scheme, Url};
use crate::{Error, ErrorKind};

pub(super) fn attempt(method: &str, url: &Url) -> String {
    format!("{method} {url}")
}

/// What TLS has against the peer, if it is that.
fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Whether what failed was a handshake with somebody who does not speak TLS.
pub(in crate::registry) fn is_not_tls(error: &Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return matches!(tls_error(io), Some(TlsError::InvalidMessage(_)));
        }
        next = error.source();
    }
    false
}

/// No connection.
pub(super) fn connecting(error: io::Error, attempt: &str, origin: &Origin, proxy: Option<&Origin>) -> Error {
    if let Some(proxy) = proxy.filter(|_| tls_error(&error).is_none()) {
        let message =
            format!("{attempt}: connect to {} port {} through the proxy {proxy}", origin.host, origin.port);
        let hint = format!(
            "see whether the proxy that HTTPS_PROXY or HTTP_PROXY names is right, with http://USER:PASSWORD@HOST:PORT if it wants to know \
             who this is, or whether NO_PROXY should name {}",
            origin.host
        );
        return Error::new(ErrorKind::Registry, message).with_source(error).with_hint(hint);
    }
    let hint = match (tls_error(&error), error.kind()) {
        (Some(TlsError::InvalidMessage(_)), _) => {
            "the server does not speak TLS: if it is a registry without encryption, pass --tls-verify=false".to_owned()
        }
        (Some(TlsError::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })), _) => {
            format!("its certificate is for another name than {}: use the name in the certificate", origin.host)
        }
        (Some(TlsError::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })), _) => {
            "its certificate has expired: have it renewed, or see whether this machine's clock is right".to_owned()
        }
        (Some(TlsError::InvalidCertificate(_)), _) => {
            "its certificate is not signed by an authority that this machine trusts: name the authority with --ca-file or --cert-dir"
                .to_owned()
        }
        (Some(TlsError::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure | AlertDescription::BadCertificate)), _) => {
            "the registry may want a certificate of the client: --cert-dir names a directory with NAME.cert and NAME.key".to_owned()
        }
        (_, io::ErrorKind::ConnectionRefused) => {
            format!("nothing listens on port {} of {}: see whether the registry runs, and whether the port is right", origin.port, origin.host)
        }
        (_, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
            format!("{} did not answer in time: see whether a firewall is between, or pass a longer --timeout", origin.host)
        }
        _ if origin.scheme == Scheme::Https || tls_error(&error).is_some() => {
            format!("see whether {} can be reached from here, and serves https", origin.host)
        }
        _ => format!("see whether {} can be reached from here", origin.host),
    };
    Error::new(ErrorKind::Registry, format!("{attempt}: connect to {} port {}", origin.host, origin.port))
        .with_source(error)
        .with_hint(hint)
}

/// A connection, but no answer.
pub(super) fn exchanging(error: io::Error, attempt: String) -> Error {
    let slow = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
    let new = Error::new(ErrorKind::Registry, attempt).with_source(error);
    if slow {
        new.with_hint("the registry did not answer in time: try again, or pass a longer --timeout")
    } else {
        new
    }
}
