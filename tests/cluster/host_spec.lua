--- What a runbook has a host's agent do besides orders: its programs, addresses, the passfile, the
--- description of a cluster, and SQL as the server's superuser.
local mr = require("moonrise")

local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")

describe("a host's agent", function()
    local place, server, agent

    setup(function()
        place = place_of.new()
        server = pg.new(place, { settings = { log_statement = "all" } })
        server:start()
    end)

    teardown(place_of.close_all)

    -- What `op` answers, and the error's code.
    local function ask(op, args)
        local answer, err
        mr.main(function()
            agent = mr.check(mr.agent())
            answer, err = agent:call(op, args)
            agent:close()
        end)
        return answer, err
    end

    local function sql(statements, params)
        local answer, err = ask("sql", { datadir = server.datadir, port = server.port,
            statements = statements, params = params })
        return answer and answer.rows, err
    end

    it("says which PostgreSQL is there", function()
        assert.matches("^postgres %(PostgreSQL%) %d+", ask("programs", { bin = pg.bin() }).version)
        local _, err = ask("programs", { bin = place.dir })
        assert.equal("notfound", err.code)
        assert.matches(place.dir .. "/initdb", err.message, 1, true)
        assert.equal("argument", select(2, ask("programs", { bin = "bin" })).code)
    end)

    it("says what it makes of an address", function()
        local port = place_of.free_port()
        assert.same({ known = true, free = true }, ask("address",
            { address = "localhost", port = port }))
        assert.same({ known = true }, ask("address", { address = "127.0.0.1" }))
        local there = ask("address", { address = "192.0.2.7", port = port })
        assert.is_false(there.free)
        assert.matches("assign", there.why, 1, true)
        assert.is_false(ask("address", { address = "no.such.host.invalid", port = port }).known)
        local taken = pg.new(place, { settings = { listen_addresses = "127.0.0.1" } })
        taken:start()
        assert.is_false(ask("address", { address = "localhost", port = taken.port }).free)
        taken:stop()
    end)

    it("keeps a password for its user alone", function()
        local path = place:path("state/moonrise/sales/passfile")
        assert.is_table(ask("passfile", { path = path, text = "*:*:*:moonrise:secret\n" }))
        assert.equal("*:*:*:moonrise:secret\n", place_of.read(path))
        assert.equal("600\n", place:must({ "stat", "-c", "%a", path }))
        assert.equal("700\n", place:must({ "stat", "-c", "%a", place:path("state/moonrise") }))
        for _, wrong in ipairs({ "passfile", "/passfile", place:path("postgresql.conf") }) do
            assert.equal("argument", select(2, ask("passfile", { path = wrong, text = "x" })).code)
        end
    end)

    it("describes a cluster as readably as its directory is", function()
        local path = server.datadir .. "/moonrise.json"
        local args = { datadir = server.datadir, port = server.port, text = "{}\n" }
        assert.is_table(ask("describe", args))
        assert.equal("600\n", place:must({ "stat", "-c", "%a", path }))
        place:must({ "chmod", "750", server.datadir })
        assert.is_table(ask("describe", args))
        assert.equal("640\n", place:must({ "stat", "-c", "%a", path }))
        place:must({ "chmod", "700", server.datadir })
        args.datadir = place:path("nowhere")
        assert.equal("notfound", select(2, ask("describe", args)).code)
    end)

    it("runs SQL as the superuser", function()
        local rows = sql({ [[select 1 as one, true as yes, 2.5::float8 as half, null as nothing,
            '0/10'::pg_lsn as lsn, 9007199254740993 as long, -9007199254740992 as even, 'x' as text,
            current_setting('is_superuser') as super,
            current_setting('synchronous_commit') as sc]] })
        assert.same({ { one = 1, yes = true, half = 2.5, lsn = 16, long = "9007199254740993",
            even = -9007199254740992,
            text = "x", super = "on", sc = "local" } }, rows)
        assert.same({ { a = "7 or 8" } }, sql({ "select $1 as a" }, { "7 or 8" }))
        local _, err = sql({ "select no_such_column" })
        assert.equal("42703", err.sqlstate)
    end)

    it("runs statements in one session, up to the first that fails", function()
        assert.same({ { v = "1MB" } }, sql({ "set work_mem = '1MB'", "show work_mem" })
            and sql({ "set work_mem = '1MB'", "select current_setting('work_mem') as v" }))
        local _, err = sql({ "create table public.half (a int)", "select 1/0",
            "create table public.whole (a int)" })
        assert.equal("22012", err.sqlstate)
        assert.same({ { relname = "half" } },
            sql({ "select relname::text from pg_class where relname in ('half', 'whole')" }))
    end)

    it("keeps out of the log what the statement before it says", function()
        assert.is_table(sql({ "set log_statement = 'none'", "select 'not to be read'" }))
        assert.is_nil(place_of.read(server.log):find("not to be read", 1, true))
    end)

    it("refuses parameters for several statements, and none at all", function()
        assert.equal("argument", select(2, sql({ "select 1", "select $1" }, { "1" })).code)
        assert.equal("argument", select(2, sql({})).code)
    end)
end)
