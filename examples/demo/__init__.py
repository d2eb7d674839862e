"""The demo: three small applications with made-up models, and what their traces tell."""
