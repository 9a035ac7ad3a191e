//! iSCSI (RFC 7143), the pure part: PDUs, login negotiation, sessions, data transfer.
