"""The stages of an audit, in the order they run: plan, base, prepare, edit, tune, analyse."""
