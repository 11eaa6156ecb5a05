"""`bench check`: a method or an encoder held to the contract, a line a rule, before any compute is spent."""
