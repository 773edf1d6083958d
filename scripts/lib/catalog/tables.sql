-- The catalog's tables. They are read by anybody whom the database lets in and written by the
-- functions of leases.sql and transitions.sql alone; checks.sql refuses everything else, a
-- superuser's slip included.
--
-- SQLSTATEs: MR001 forbidden by a safety rule, MR002 no lease, MR003 somebody else was first, MR004
-- the arguments make no sense.

create schema moonrise;

-- Greenplum's columns. mode: s in sync, n not; status: u up, d down; role: p primary, m mirror.
create table moonrise.gp_segment_configuration (
    dbid            smallint primary key check (dbid > 0),
    content         smallint not null check (content >= -1),
    role            "char" not null check (role in ('p', 'm')),
    preferred_role  "char" not null check (preferred_role in ('p', 'm')),
    mode            "char" not null check (mode in ('s', 'n')),
    status          "char" not null check (status in ('u', 'd')),
    port            integer not null check (port between 1 and 65535),
    hostname        text not null check (hostname <> ''),
    address         text not null check (address <> ''),
    datadir         text not null check (datadir like '/%'),
    unique (hostname, port),
    unique (hostname, datadir)
);

create unique index gp_segment_configuration_one_primary
    on moonrise.gp_segment_configuration (content) where role = 'p';

create table moonrise.gp_configuration_history (
    "time"          timestamptz not null,
    dbid            smallint not null,
    description     text not null
);

create index on moonrise.gp_configuration_history ("time");

-- Observations that mattered, decisions, actions and their results. Append only.
create table moonrise.journal (
    id              bigint generated always as identity primary key,
    "time"          timestamptz not null default clock_timestamp(),
    kind            text not null check (kind <> ''),
    content         smallint,
    dbid            smallint,
    text            text not null,
    data            jsonb not null default '{}'
);

create index on moonrise.journal ("time");
create index on moonrise.journal (content, id);

-- One row. `epoch` is the number of the last transition and only grows; taken_by is the transaction
-- that took it, which is how the other tables know that a change belongs to one.
create table moonrise.cluster_state (
    the_one         boolean primary key default true check (the_one),
    name            text not null check (name <> ''),
    epoch           bigint not null default 0 check (epoch >= 0),
    taken_by        xid8,
    state           text not null default 'running' check (state in ('running', 'stopped')),
    config          text not null default '',
    watcher         text,
    watcher_since   timestamptz,
    created         timestamptz not null default clock_timestamp()
);

-- Per content: `epoch` is the last one that its pair got, `reserved` the last one reserved for
-- orders, `role_epoch` that of the last change of roles, `timeline` the highest that its instances
-- have in common: what bears a higher one was promoted by somebody else. `armed_timeline` is the
-- one that primary and mirror were both seen on when the pair was last armed. `unconfirmed` is set
-- while the pair has not confirmed its epochs since the coordinator's standby was activated: the
-- pair's epoch as this catalog knew it then (activation.sql).
create table moonrise.pair_state (
    content         smallint primary key,
    epoch           bigint not null,
    reserved        bigint not null default 0,
    role_epoch      bigint not null default 0,
    timeline        bigint not null default 1 check (timeline > 0),
    armed_name      text,
    armed_timeline  bigint check (armed_timeline > 0),
    unconfirmed     bigint,
    since           timestamptz not null default clock_timestamp()
);

-- Promotions that were carried out (SAFETY.md, rule 9).
create table moonrise.promotion (
    content         smallint not null,
    epoch           bigint not null,
    timeline        bigint not null check (timeline > 0),
    switch_lsn      pg_lsn not null,
    "time"          timestamptz not null default clock_timestamp(),
    primary key (content, epoch)
);

-- Who works on a content, what for, how far it is, and until when that holds without a sign of
-- life.
create table moonrise.content_lease (
    content         smallint primary key,
    token           bigint not null unique,
    holder          text not null,
    intent          text not null,
    step            text not null,
    taken           timestamptz not null default clock_timestamp(),
    expires         timestamptz not null
);

create sequence moonrise.lease_token;

-- Places outside of gp_segment_configuration that hold, or may hold, something of an instance:
-- where a recovery to another place has begun, and where one came from. Nothing there is started;
-- what lies there goes once the pair is in sync (SAFETY.md, rule 10), unless somebody is copying to
-- it: `busy_by`, until `busy_until`, which he puts off for as long as he does.
create table moonrise.left_place (
    dbid            smallint not null,
    content         smallint not null,
    port            integer not null check (port between 1 and 65535),
    hostname        text not null check (hostname <> ''),
    address         text not null check (address <> ''),
    datadir         text not null check (datadir like '/%'),
    since           timestamptz not null default clock_timestamp(),
    busy_until      timestamptz,
    busy_by         text check (busy_by is not null or busy_until is null),
    primary key (hostname, datadir)
);

-- Databases whose foreign servers follow the primaries.
create table moonrise.fdw_database (
    dbname          name primary key
);

-- pg_stat_replication's columns as the watcher saw them last. Unlogged: after a crash there is a
-- new sample within a second, and samples shall not keep the standby busy.
create unlogged table moonrise.replication_sample (
    gp_segment_id    integer not null,
    pid              integer,
    usesysid         oid,
    usename          name,
    application_name text,
    client_addr      inet,
    client_hostname  text,
    client_port      integer,
    backend_start    timestamptz,
    backend_xmin     xid,
    state            text,
    sent_lsn         pg_lsn,
    write_lsn        pg_lsn,
    flush_lsn        pg_lsn,
    replay_lsn       pg_lsn,
    write_lag        interval,
    flush_lag        interval,
    replay_lag       interval,
    sync_priority    integer,
    sync_state       text,
    reply_time       timestamptz,
    sample_time      timestamptz not null default clock_timestamp()
);

create view moonrise.gp_stat_replication as
    select * from moonrise.replication_sample;
