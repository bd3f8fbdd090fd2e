"""Documents worth sending: one structured form, and its bytes in six formats and five styles."""
