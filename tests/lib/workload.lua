--- Data with all that a recovery has to cope with, and writers that go on changing it.
---
---     workload.fill(primary)
---     local writers = workload.start(primary)
---     writers:stop()
---     after_each(workload.stop_all)

local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local M = {}
local Writers = {}
Writers.__index = Writers
local running = {}

M.ROWS = 60000

local TABLES = [[
create extension if not exists amcheck;
create table big (i int primary key, t text);
insert into big select i, repeat(md5(i::text), 8) from generate_series(1, %d) i;
create index on big (t text_pattern_ops) where i %% 10 = 0;
create table grown (s bigserial, t text);
create table shrunk as select * from big;
create table emptied as select * from big where i < 20000;
create unlogged table fleeting (i int primary key);
insert into fleeting select generate_series(1, 10000);
create tablespace inside location '';
create table elsewhere (i int primary key, t text) tablespace inside;
insert into elsewhere select i, md5(i::text) from generate_series(1, 10000) i;
create database dropped;
]]

-- Most of the work; \gset-free, so that any number of clients can do it.
local ROWS = [[
\set i random(1, %d)
begin;
update big set t = repeat(md5(random()::text), 8) where i = :i;
insert into grown (t) select repeat('x', 100) from generate_series(1, 20);
delete from elsewhere where i = :i;
insert into elsewhere values (:i, 'again') on conflict do nothing;
end;
]]

-- Files that come and go.
local FILES = [[
drop table if exists churn_:client_id;
create table churn_:client_id as select * from big where i < 2000;
truncate churn_:client_id;
insert into churn_:client_id select * from big where i < 100;
create index on churn_:client_id (t);
drop table churn_:client_id;
]]

--- Makes the tables, in the database postgres. The server allows tablespaces in place.
---@param server table
function M.fill(server)
    server:sql(TABLES:format(M.ROWS), { timeout_s = 120 })
end

--- Makes a watched cluster of one pair that has these tables.
---@param place table
---@param settings table of its servers
---@return table cluster
function M.cluster(place, settings)
    local cluster = cluster_of.new(place, { segments = 1, settings = settings })
    cluster:init()
    M.fill(cluster:primary(0))
    cluster:watched()
    return cluster
end

--- What happens while an instance is down: each kind of change to files that PostgreSQL knows.
---@param server table
---@param round integer a number that is used once
function M.change(server, round)
    wait.eventually(server.name .. " to take writes", wait.SOON_S, function()
        return server:value("pg_is_in_recovery()") == "f"
    end)
    server:sql(([[
        truncate emptied; insert into emptied select * from big where i %% 7 = %d;
        delete from shrunk where i > %d; vacuum shrunk;
        update big set t = reverse(t) where i %% 100 = %d;
        insert into fleeting values (%d)]]):format(round % 7, 30000 - round * 100, round % 100,
        20000 + round), { timeout_s = 60 })
    server:sql("create database made_" .. round)
    server:sql("drop database if exists dropped")
    server:sql("create table born as select i, md5(i::text) from generate_series(1, 5000) i",
        { dbname = "made_" .. round })
end

--- Starts writers on a server; they end when it does.
---@param server table
---@param clients? integer default 2
---@return table writers
function M.start(server, clients)
    local place = server.place
    local rows = place:write("rows.sql", ROWS:format(M.ROWS))
    local churn = place:write("files.sql", FILES)
    local program = place:start({ server.bin .. "/pgbench", "-n", "-h", server.host, "-p",
        tostring(server.port), "-c", tostring(clients or 2), "-T", "3600",
        "-f", rows .. "@20", "-f", churn .. "@1", "postgres" })
    local writers = setmetatable({ program = program, server = server }, Writers)
    running[writers] = true
    return writers
end

--- Ends them, and waits until nobody works for them any more.
function Writers:stop()
    running[self] = nil
    if not self.program:code() then
        self.program:kill("TERM")
        self.program:wait(wait.SOON_S)
    end
    wait.eventually("the writers to be gone", wait.SOON_S, function()
        return not self.server:running() or self.server:value(
            "(select count(*) from pg_stat_activity where application_name = 'pgbench')") == "0"
    end)
end

--- What a spec file's after_each does: ends those that a test has left.
function M.stop_all()
    for writers in pairs(running) do
        writers:stop()
    end
end

--- Whether a commit of theirs comes within the time: a row more in the table that only grows.
---@param deadline_s number
function Writers:progress(deadline_s)
    local last = "(select last_value from grown_s_seq)"
    local before = tonumber(self.server:value(last))
    wait.eventually("the writers to go on", deadline_s, function()
        return tonumber(self.server:value(last)) > before, self.program:output()
    end)
end

--- Whether a directory can be started by somebody who knows nothing of a recovery.
---@param server table
---@return boolean started
---@return string said
function M.starts_anyway(server)
    local result = server.place:run({ server.bin .. "/pg_ctl", "start", "-D", server.datadir,
        "-w", "-t", "10", "-l", server.place:path("anyway.log") }, { timeout_s = 20 })
    return result.code == 0, result.err .. (place_of.read(server.place:path("anyway.log")) or "")
end

return M
