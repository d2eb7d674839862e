"""How the engine talks to PostgreSQL from within a call: statements prepared once a session,
and looks for a cancel during long computations.

It knows nothing of traces or of filters. It imports nothing of the engine.
"""
