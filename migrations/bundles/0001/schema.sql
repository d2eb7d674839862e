-- sql/schema/access.sql
-- Everyone may see what is inside; each function and table grants for itself.
grant usage on schema insights to public;

-- sql/schema/facet.sql
-- A type of its own, because one of its columns is called like an argument.
create type insights.facet as (
    value text,
    low double precision,
    high double precision,
    filter text,
    count bigint,
    share double precision
);

comment on type insights.facet is
    'What insights_facets says of a value: the value; of a number its interval, low <= x < high, or '
    'the number itself twice; the filter for it; the matching traces that have it, and their share';

-- sql/schema/index.sql
-- The index: which traces have which facts.  Derived from MLflow's tables, never
-- the truth itself; docs/index.md explains it.
--
-- A block numbers up to 32,000 traces of one experiment by position.  A term is a
-- fact that traces can have, a posting the positions of a block that have it.
-- Blocks are only ever added, merged and thrown away: a trace that changes leaves
-- its position and gets one in a newer block.

create table insights.block (
    block int generated always as identity primary key,
    experiment_id int not null,
    used int not null check (used between 1 and 32000),
    live bytea not null,
    live_count int not null check (live_count between 0 and used),
    first_ms bigint not null,
    last_ms bigint not null,
    created_at timestamptz not null default clock_timestamp()
);

create index block_experiment_id on insights.block (experiment_id);

comment on table insights.block is
    'Up to 32,000 traces of one experiment, numbered by position';
comment on column insights.block.used is 'Positions given out: 0 to used - 1';
comment on column insights.block.live is
    'The positions whose trace is as it was when the block was made, encoded like posting.members';
comment on column insights.block.first_ms is 'The earliest start of its traces, ms since 1970 UTC';
comment on column insights.block.last_ms is 'The latest start of its traces, ms since 1970 UTC';

create table insights.trace (
    trace_id text collate "C" primary key,
    block int not null,
    position smallint not null,
    row_count int not null,
    spans text,
    assessments text
);

create unique index trace_position on insights.trace (block, position);

comment on table insights.trace is 'Where each indexed trace stands, and its rollups';
comment on column insights.trace.row_count is
    'Rows that MLflow''s other tables had of it: tags, metadata, spans, assessments, links. Fewer now: '
    'some were deleted';
comment on column insights.trace.spans is
    'Rollup of its spans, packed; insights.span_rollup shows it';
comment on column insights.trace.assessments is
    'Rollup of its assessments, packed; insights.assessment_rollup shows it';

create table insights.signature (
    signature int generated always as identity primary key,
    type text,
    name text,
    status text not null,
    bucket int
);

comment on table insights.signature is
    'What spans have in common: type, name and status; facts about spans carry it';
comment on column insights.signature.bucket is
    'Not NULL: stands for all names with this hash, because there are too many names; name is NULL';

create table insights.term (
    term int generated always as identity primary key,
    kind text collate "C" not null,
    key text collate "C" not null,
    signature int not null,
    role "char" not null,
    slot smallint not null,
    value text not null
);

create unique index term_fact on insights.term (kind, key, role, value, signature, slot);

comment on table insights.term is 'The vocabulary: a row per fact that some trace has had';
comment on column insights.term.kind is
    'trace, tag, metadata, feedback, expectation, run, prompt, issue, span or attribute';
comment on column insights.term.signature is 'insights.signature for facts about spans, otherwise 0';
comment on column insights.term.role is
    'v a value, h a hash bucket of values, p something is there, o something that was not '
    'captured, n a bit of the smallest number, x a bit of smallest xor largest number';
comment on column insights.term.slot is
    'The bucket (h), the bit from 0 for the lowest (n, x; 64 of n: there is a number), or what was '
    'not captured (o); otherwise 0';
comment on column insights.term.value is 'The value (v), otherwise empty';

create table insights.vocabulary (
    kind text collate "C" not null,
    key text collate "C" not null,
    "values" int not null,
    primary key (kind, key)
);

comment on table insights.vocabulary is
    'How many values of a key have a term of their own; from a limit on, values share buckets';

create table insights.posting (
    block int not null,
    term int not null,
    members bytea not null,
    primary key (block, term)
);

-- What can be compressed has been (bitmaps.py).
alter table insights.posting alter column members set storage external;
-- Two full bitmaps share a page, so reading one is one look instead of three.
alter table insights.posting set (toast_tuple_target = 8160);

comment on table insights.posting is 'The positions of a block that have a fact';
comment on column insights.posting.members is
    'First byte 0: positions, 16 bits each, lowest byte first, ascending. '
    'First byte 1: a bitmap, position 0 the lowest bit of the first byte. '
    'First byte 2: such a bitmap in zlib format';

create table insights.cells (
    block int not null,
    kind text collate "C" not null,
    key text collate "C" not null,
    span_name text collate "C" not null,
    sample int[] not null,
    cuts text not null,
    low bytea[] not null,
    high bytea[],
    primary key (block, kind, key, span_name)
);

alter table insights.cells alter column low set storage external;
alter table insights.cells alter column high set storage external;

comment on table insights.cells is
    'In which cell between constants the numbers of traces lie, in large blocks: a copy of what '
    'discoveries would work out of insights.posting';
comment on column insights.cells.span_name is
    'Of durations: those of spans of this name; otherwise empty';
comment on column insights.cells.sample is
    'The blocks from whose numbers the constants were chosen';
comment on column insights.cells.cuts is
    'JSON: the constants, ascending, each with the first number that is not below it, as an '
    'integer in the order of numbers';
comment on column insights.cells.low is
    'Of the number of the cell of the smallest number, from 1 (0: there is none), the bits, the '
    'lowest first, each encoded like posting.members';
comment on column insights.cells.high is
    'The same of the largest number; NULL: no trace has two different numbers';

create table insights.sessions (
    block int primary key,
    ids text[] not null,
    places bytea not null
);

comment on table insights.sessions is
    'Which session each trace of a large block belongs to';
comment on column insights.sessions.ids is 'The sessions of the block';
comment on column insights.sessions.places is
    'By position the place of the session in ids, from 1 (0: there is none), 16 bits each, lowest '
    'byte first';

create table insights.carrier (
    trace_id text collate "C" primary key,
    session_id text collate "C" not null
);

create index carrier_session_id on insights.carrier (session_id);

comment on table insights.carrier is
    'Indexed traces with assessments that cover their whole session, and that session';

-- A transaction notes a trace once, and waits for no other: nobody else writes notes
-- with its number.
create table insights.pending (
    trace_id text collate "C" not null,
    transaction xid8 not null default pg_catalog.pg_current_xact_id(),
    noted_at timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (trace_id, transaction)
);

-- Cutting off the empty end of the file would need a lock that keeps MLflow's
-- statements from noting what they change.  Every reader goes through this table,
-- so it is to be cleaned as soon as there is something to clean.
alter table insights.pending set (
    vacuum_truncate = off,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_threshold = -1
);

comment on table insights.pending is
    'Traces that changed since they were indexed; until then they are answered from MLflow''s tables';
comment on column insights.pending.transaction is 'Which transaction changed the trace';

-- Counts what could not be noted in pending.  A sequence takes no lock that could
-- wait and is not rolled back.
create sequence insights.missed as bigint minvalue 0 start 0;

-- From now on last_value is how often something was missed.
select setval('insights.missed', 0);

comment on sequence insights.missed is
    'Moves on whenever a change could not be noted; the index is then not used until a refresh has caught up';

create table insights.state (
    singleton boolean primary key default true check (singleton),
    built boolean not null,
    trusted bigint not null,
    fingerprint text not null,
    identity text not null,
    horizon xid8 not null,
    awaited xid8,
    indexed_through text collate "C",
    installation uuid not null default pg_catalog.gen_random_uuid(),
    version uuid not null default pg_catalog.gen_random_uuid()
);

comment on table insights.state is 'One row: whether the index knows every trace';
comment on column insights.state.built is
    'Whether every trace is either indexed or pending; until then the index is not used';
comment on column insights.state.trusted is
    'insights.missed, as far as what was missed has been made up for';
comment on column insights.state.fingerprint is
    'What the catalogue said of triggers, tables and columns when nothing had gone unnoticed; as soon '
    'as it says something else, the index is not used until a refresh has caught up';
comment on column insights.state.identity is
    'Which cluster and which tables the index was made of; of others it has to be built anew';
comment on column insights.state.horizon is
    'Every transaction before this one had ended when nothing had gone unnoticed: what may have been '
    'missed since has been written by this one or a later one';
comment on column insights.state.awaited is
    'NULL unless a refresh is to catch up: not before all transactions before this one have ended';
comment on column insights.state.indexed_through is
    'How far building the index has come; empty when there is nothing to build';
comment on column insights.state.installation is
    'Tells this index from any other that sessions may still remember';
comment on column insights.state.version is
    'Replaced by every transaction that changes blocks or the vocabulary; what sessions remember '
    'of these goes with it';

-- Whoever writes the index locks this table, which only those can do who may write
-- it; insights_rebuild, which commits time and again, leaves its process number here.
create table insights.lease (
    singleton boolean primary key default true check (singleton),
    process int,
    renewed_at timestamptz
);

insert into insights.lease default values;

comment on table insights.lease is 'One row: who is building the index anew';
comment on column insights.lease.process is
    'Process number of the session that runs insights_rebuild; NULL: nobody does';
comment on column insights.lease.renewed_at is
    'When that session last went on: ten seconds later it no longer counts';

-- sql/schema/installation.sql
-- What the installation found and made, so that uninstalling leaves the database
-- as it was.
create table insights.installation (
    singleton boolean primary key default true check (singleton),
    mlflow_schema name not null,
    created_extensions name[] not null,
    bundle text not null,
    reader_role name,
    note_role name
);

comment on table insights.installation is
    'One row: what the installation found and made';
comment on column insights.installation.mlflow_schema is
    'The schema of MLflow''s tables, where the public functions are';
comment on column insights.installation.created_extensions is
    'Extensions that were not there before; uninstalling drops them';
comment on column insights.installation.bundle is
    'SHA-256 of the functions that were installed last';

comment on column insights.installation.reader_role is
    'The role whose members may read the index';
comment on column insights.installation.note_role is
    'The role that owns the trigger functions on MLflow''s tables';

revoke all on insights.installation from public;
grant select on insights.installation to public;

-- sql/schema/problem.sql
-- What is wrong with a request, as the engine found it.  PL/Python functions
-- return it instead of raising, because an error raised there would show users
-- a Python traceback in its CONTEXT; insights.accept() turns it into an error.
create type insights.problem as (
    sqlstate text,
    message text,
    detail text,
    hint text
);

comment on type insights.problem is
    'What is wrong with a request: SQLSTATE, message, DETAIL and HINT';
