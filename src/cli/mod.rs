//! The command line: the array's own verbs, spoken to the management API.
