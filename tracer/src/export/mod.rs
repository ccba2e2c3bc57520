//! Sends spans away: the only stage that knows OpenTelemetry.
