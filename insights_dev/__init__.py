"""Tools for working on the project: the private PostgreSQL cluster and its database.

Nothing here is shipped to users.  `insights_dev.cluster` needs the standard
library only, since it runs before anything is installed.
"""
