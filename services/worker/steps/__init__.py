"""The stages of an audit, in the order they run: plan, base, edit, tune, analyse."""
