//! The SCSI command set (SAM-5, SPC-5, SBC-4): CDBs in, replies or block requests out. Pure.
