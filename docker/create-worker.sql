-- The role of the service `worker`.  It may read MLflow's tables and keep the index
-- up to date, and nothing else; `insights install` grants what insights_writer needs.
create role insights_writer nologin;
create role insights_worker login password 'worker123' in role insights_writer;
alter default privileges in schema public grant select on tables to insights_writer;
