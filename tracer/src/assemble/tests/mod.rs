//! The assembler against small readable cases and against a model.

mod bounds;
mod cases;
mod leaves;
mod model;
mod properties;
mod scene;
mod served;
mod wire;
