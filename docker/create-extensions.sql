-- The extensions need a superuser, which only the first start has for certain.
-- `insights install` finds them and leaves them in place when it is uninstalled.
create extension if not exists pg_trgm;
create extension if not exists plpython3u;
