//! The assembler, against small readable cases and against a model.
