//! Assembly of one array: threads, objects, portals, groups.
