//! Bytes to events, in order, with every loss counted; and recordings of them.
