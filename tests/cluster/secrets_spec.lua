--- What whoever has the password can do, and that nobody gets it, on real servers.

local cluster_of = require("tests.lib.cluster")
local hurt = require("tests.lib.hurt")
local place_of = require("tests.lib.place")
local psql = require("tests.lib.psql")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S

-- Every command line and every environment there is, as often as the machine allows.
local SAMPLE = [[
while [ -e "$1" ]; do
    cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' | sort -u >>"$2"
done]]

local ANY_CORE = "ulimit -c unlimited 2>/dev/null"

-- As role moonrise, in the database of the first column ("" postgres): each must be refused so.
local FORBIDDEN = {
    { "sales", "select * from orders", "permission denied for table orders" },
    { "", "select rolpassword from pg_authid", "permission denied for table pg_authid" },
    { "", "select pg_read_file('PG_VERSION')", "permission denied for function pg_read_file" },
    { "", "select lo_import('/etc/passwd')", "permission denied for function lo_import" },
    { "", "copy (select 1) to '/tmp/moonrise-stolen'", "pg_write_server_files" },
    { "", "copy (select 1) to program 'true'", "pg_execute_server_program" },
    { "", "create temp table t (i int); copy t from '/etc/passwd'", "pg_read_server_files" },
    { "", "alter role moonrise superuser", "must be superuser" },
    { "", "alter role moonrise createrole", "must be superuser to alter replication roles" },
    { "", "create role thief", "permission denied" },
    { "", "grant pg_read_all_data to moonrise", "must have admin option" },
    { "", "set role pg_read_all_data", "permission denied" },
    { "", "create database loot", "permission denied" },
    { "", "create table public.loot (i int)", "permission denied for schema public" },
    { "", "create extension postgres_fdw", "permission denied" },
    { "", "alter system set archive_command = 'true'", "permission denied to set parameter" },
    { "", "alter system set session_preload_libraries = 'x'", "permission denied to set" },
    { "", "alter system set primary_conninfo = 'x'; alter system reset all", "permission denied" },
    { "", "load '/tmp/x.so'", "access to library \"/tmp/x.so\" is not allowed" },
    { "", "set session_replication_role = replica", "permission denied to set parameter" },
    { "", "select pg_wal_replay_pause()", "permission denied for function pg_wal_replay_pause" },
    { "", "select pg_create_restore_point('x')", "permission denied for function" },
    { "", "select pg_rotate_logfile()", "permission denied for function pg_rotate_logfile" },
    { "", "select pg_terminate_backend(pid) from pg_stat_activity where usename = '%s'",
      "must be a superuser to terminate superuser process" },
    { "sales", "alter server seg0 options (set host 'thief.example')", "must be owner" },
    { "sales", "drop user mapping for public server seg0", "must be owner" },
    { "sales", "create server thief foreign data wrapper postgres_fdw", "permission denied" },
    { "moonrise", "update gp_segment_configuration set status = 'd'", "permission denied" },
    { "moonrise", "delete from journal", "permission denied" },
    { "moonrise", "select config_set('', 'x')", "permission denied for function config_set" },
    { "moonrise", "select set_pair(0, 'n', 'd')", "permission denied for function set_pair" },
    { "moonrise", "create function moonrise.f() returns int language sql as 'select 1'",
      "permission denied for schema moonrise" },
    { "moonrise", "create table public.loot (i int)", "permission denied for schema public" },
}

describe("secrets", function()
    local place, cluster, passfile, password

    local function shell(script, ...)
        return place:must({ "sh", "-c", script, "sh", ... })
    end

    local function as_moonrise(inst, dbname, sql)
        local rows, message = psql.query(place, { bin = inst.bin, host = "127.0.0.1",
            port = inst.port, user = "moonrise", passfile = passfile, dbname = dbname }, sql)
        return rows, message
    end

    -- Files below the place that hold the text, but for the passfile.
    local function files_with(text, where)
        local out = place:run({ "grep", "-rlF", "--exclude=passfile", "--exclude=*.in", "-e", text,
            where or place.dir }).out
        return out
    end

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { fdw = { databases = { "sales" } },
            settings = { log_statement = "all", log_min_duration_statement = 0 } })
        local going, sample = place:write("going", ""), place:path("sample")
        local sampler = place:start({ "sh", "-c", SAMPLE, "sh", going, sample })
        shell('umask 000; exec "$@"', place_of.moonrise(), "init", "-av", "-l", place:path("log"),
            cluster.file)
        cluster:must({ "state", "-v", "--json" })
        place:must({ "rm", going })
        sampler:wait(SOON_S)
        passfile = cluster:state_file("passfile")
        password = place_of.read(passfile):match(":(%x+)\n$")
    end)

    teardown(place_of.close_all)

    it("are in the passfile and nowhere else", function()
        assert.matches("--pgdata=", place_of.read(place:path("sample")), 1, true)
        assert.equal("", files_with(password))
        assert.matches("alter database moonrise", place_of.read(cluster.datadir ..
            "/log/postgresql.log"), 1, true)
        assert.equal("", shell("grep -rlF 'SCRAM-SHA-256$' \"$1\" --include='*.log' " ..
            "--include=sample --include='*.json' || true", place.dir))
        local catalog = cluster:coordinator():sql("select query_to_xml('table moonrise.' " ..
            "|| quote_ident(relname), true, true, '')::text as x from pg_class " ..
            "where relkind = 'r' and relnamespace = 'moonrise'::regnamespace",
            { dbname = "moonrise" })
        assert.is_true(#catalog > 5)
        for _, row in ipairs(catalog) do
            assert.is_nil(row.x:find(password, 1, true))
        end
    end)

    it("lie in files of their owner, whatever the umask was", function()
        assert.equal("", shell([[find "$1/home/state" "$1/log" ! -type l -perm /077; \
            find "$1/coordinator" "$1/primary0" "$1/mirror0" -maxdepth 0 -perm /077; \
            find "$1/coordinator" "$1/primary0" "$1/mirror0" -name 'moonrise*' -perm /077]],
            place.dir))
    end)

    it("stay out of core files", function()
        local watch = place:start({ "sh", "-c", ANY_CORE .. '; exec "$@"', "sh",
            place_of.moonrise(), "watch" },
            { env = { COORDINATOR_DATA_DIRECTORY = cluster.datadir } })
        watch:says("watching", SOON_S)
        cluster:wait_healthy()
        local pids = hurt.children(watch.pid)
        assert.is_true(#pids > 0)
        for _, pid in ipairs({ watch.pid, unpack(pids) }) do
            assert.equal("00000000\n", place_of.read(("/proc/%d/coredump_filter"):format(pid)))
        end
        -- The servers have what they would have without us.
        assert.equal(place_of.read("/proc/self/coredump_filter"), place_of.read(
            ("/proc/%d/coredump_filter"):format(cluster:coordinator():pid())))
        watch:kill("ABRT")
        watch:wait(SOON_S)
        -- Where the system lets cores be and puts them where we can look.
        if place_of.read("/proc/sys/kernel/core_pattern"):match("^core")
            and place:run({ "sh", "-c", ANY_CORE .. '; [ "$(ulimit -c)" = unlimited ]' }).code == 0
        then
            place:must({ "sh", "-c", "test -s core || test -s core.*" })
        end
        assert.equal("", files_with(password))
        shell("rm -f core core.*")
    end)

    it("let whoever has them do what a watcher does, and nothing else", function()
        local coordinator, user = cluster:coordinator(), place:must({ "id", "-un" }):match("%S+")
        coordinator:sql("create table orders (i int); create user mapping for public " ..
            "server seg0 options (user 'shop')", { dbname = "sales" })
        local idle = cluster:session()
        idle:ask("select 1")
        for _, row in ipairs(FORBIDDEN) do
            local dbname, sql, pattern = row[1] ~= "" and row[1] or "postgres", row[2], row[3]
            local rows, message = as_moonrise(coordinator, dbname, sql:format(user))
            assert.is_nil(rows, sql)
            assert.matches(pattern, message, 1, true)
        end
        assert.equal("1\n", (idle:ask("select 1")))
        idle:close()
        assert.is_nil((as_moonrise(cluster:primary(0), "template1", "select 1")))
        assert.equal("0", coordinator:value([[(select count(*) from pg_proc where prosecdef
            and pronamespace = 'moonrise'::regnamespace and not exists (select from
            unnest(proconfig) c where c = 'search_path=pg_catalog, moonrise, pg_temp'))]],
            { dbname = "moonrise" }))
        assert.equal("0", coordinator:value([[(select count(*) from pg_proc p
            where pronamespace = 'moonrise'::regnamespace
            and has_function_privilege('public', p.oid, 'execute'))]], { dbname = "moonrise" }))
    end)

    it("are not in the hands of a database's owner", function()
        cluster:coordinator():sql([[
            create role mallory login;
            create schema evil;
            create table evil.seen (who name);
            grant usage on schema evil to public;
            grant insert on evil.seen to public;
            create function evil.pg_options_to_table(text[], out option_name text,
                out option_value text) returns setof record language plpgsql as $$
            begin
                insert into evil.seen values (session_user);
                return query select * from pg_catalog.pg_options_to_table($1);
            end $$;
            alter database sales owner to mallory;
            alter database sales set search_path = evil, pg_catalog]], { dbname = "sales" })
        local function ports()
            return cluster:coordinator():value("(select srvoptions::text from pg_foreign_server)",
                { dbname = "sales" })
        end
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        cluster:coordinator():sql(("alter server seg0 options (set port '%s,%s')"):format(
            mirror.port, primary.port), { dbname = "sales" })
        local watch = cluster:watched()
        wait.eventually("the primary to be named first", SOON_S, function()
            return ports():find("port=" .. primary.port .. ",", 1, true), watch:output()
        end)
        watch:kill("TERM")
        watch:wait(SOON_S)
        assert.same({}, cluster:coordinator():sql("select * from evil.seen", { dbname = "sales" }))
    end)

    it("that are wrong, or open to others, are told with their file", function()
        local text = place_of.read(passfile)
        place:must({ "chmod", "644", passfile })
        local open = cluster:moonrise({ "state", "-e" })
        place:must({ "chmod", "600", passfile })
        shell("printf '%s\n' '*:*:*:moonrise:guess' >\"$1\"", passfile)
        local wrong = cluster:moonrise({ "state", "-e" })
        shell("printf %s \"$2\" >\"$1\"", passfile, text)
        for _, said in ipairs({ open, wrong }) do
            assert.equal(1, said.code)
            assert.matches(passfile, said.err, 1, true)
        end
        cluster:must({ "state", "-e" })
    end)
end)
