//! Control of one remote copy group on one array: the glue, pure as well, between arbitration
//! (who may serve), the mirror's volumes (what is equal) and the operator.
