-- Everyone may see what is inside; each function and table grants for itself.
grant usage on schema insights to public;
