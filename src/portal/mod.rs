//! The iSCSI front end's shell: listeners and connections on the data threads.
