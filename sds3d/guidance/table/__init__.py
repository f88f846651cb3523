"""The rows of the method table, by family; `sds3d.guidance.methods` joins them."""
