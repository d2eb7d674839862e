"""``/api/3.0/mlflow/insights/...``: the stored functions as REST routes.

========  ====================================================================
module    what it is
========  ====================================================================
kinds     the types of a request's fields: their JSON schema, and their check
routes    the table of routes: which function, which fields, which reply
openapi   the table as an OpenAPI document
views     the table as Flask views
========  ====================================================================

The document and the check of a request come from one description, so what the
document allows is what the routes take.
"""
