//! HTTP+JSON management API in the shape of the 3PAR WSAPI, and Prometheus metrics.
