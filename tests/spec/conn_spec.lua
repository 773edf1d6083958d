--- Connections and probers as scripts see them, on a real server.
local mr = require("moonrise")

local copy = require("tests.lib.copy")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local turns = require("tests.lib.turns")

local main = turns.main

describe("with a server", function()
    local place, server

    setup(function()
        place = place_of.new()
        server = pg.new(place, {
            settings = { listen_addresses = "127.0.0.1" },
            initdb = { "--auth-host=trust" },
        })
        server:start()
        server:sql("create role tester login; grant pg_signal_backend, pg_monitor to tester")
    end)

    teardown(place_of.close_all)

    local function options(more)
        return copy({ host = "127.0.0.1", port = server.port, user = "tester",
            dbname = "postgres" }, more)
    end

    describe("a connection", function()
        it("knows its server", main(function()
            local conn = mr.check(mr.connect(options({ application_name = "spec" })))
            assert.is_true(conn:is_open())
            local row = mr.check(conn:query("select pg_backend_pid() as pid," ..
                " current_setting('server_version_num')::int as version," ..
                " current_setting('application_name') as name"))[1]
            assert.same({
                pid = conn:backend_pid(), version = conn:server_version(), name = "spec",
            }, row)
            conn:close()
            assert.is_false(conn:is_open())
            assert.equals(0, conn:backend_pid())
            assert.equals("connect", select(2, conn:query("select 1")).code)
        end))

        it("turns values into Lua's", main(function()
            local conn = mr.check(mr.connect(options()))
            local rows = mr.check(conn:query([[
                select 1::int2 as a, -5 as b, 9007199254740992::int8 as c,
                       9223372036854775807::int8 as big, 1.5::float8 as d, 2.25::numeric as e,
                       true as yes, false as no, null as nothing, 'text' as f,
                       '16/B374D848'::pg_lsn as lsn, '{"x": [1]}'::json as json,
                       'NaN'::float8 as nan, 12::oid as oid]]))
            local row = rows[1]
            assert.are_not.equal(row.nan, row.nan)
            row.nan = nil
            assert.same({ a = 1, b = -5, c = 2 ^ 53, big = "9223372036854775807", d = 1.5, e = 2.25,
                yes = true, no = false, f = "text", lsn = mr.lsn("16/B374D848"),
                json = '{"x": [1]}', oid = 12 }, row)
            assert.equals("SELECT 1", rows.command)
        end))

        it("takes parameters", main(function()
            local conn = mr.check(mr.connect(options()))
            local row = mr.check(conn:query(
                "select $1::text as a, $2::int8 as b, $3::bool as c, $4::text as d," ..
                " $5::float8 as e, $6::text as f",
                { "it's; --", 2 ^ 53, true, mr.null, 0.1, n = 6 }))[1]
            assert.same({ a = "it's; --", b = 2 ^ 53, c = true, e = 0.1 }, row)
            for _, params in ipairs({ { {} }, { print }, { "a\0b" }, 1 }) do
                local ok, err = pcall(function()
                    conn:query("select $1::text", params)
                end)
                assert.is_false(ok)
                assert.matches("params", err)
            end
        end))

        it("runs several statements, and says what each error is", main(function()
            local conn = mr.check(mr.connect(options()))
            assert.same({ 2 }, { mr.check(conn:query("select 1; select 2 as two"))[1].two })
            local rows, err = conn:query("select 1/0")
            assert.is_nil(rows)
            assert.same({ "sql", "22012" }, { err.code, err.sqlstate })
            assert.matches("division by zero", err.message)
            assert.equals(1, mr.check(conn:query("select 1 as one"))[1].one)
        end))

        it("runs beside others", main(function()
            local most = mr.parallel({ 1, 2, 3, 4 }, 4, function(n)
                local conn = mr.check(mr.connect(options()))
                local row = mr.check(conn:query("select pg_sleep(0.02), $1::int as n", { n }))[1]
                conn:close()
                return row.n
            end)
            assert.same({ 1, 2, 3, 4 }, most)
        end))

        it("takes one query at a time", main(function()
            local conn = mr.check(mr.connect(options()))
            local task = turns.begin(conn.query, conn, "select pg_sleep(0.1)")
            assert.has_error(function()
                conn:query("select 1")
            end)
            assert.is_table(task:wait())
        end))

        it("is closed by a time-out or a cancel, and the server forgets it", main(function()
            local conn = mr.check(mr.connect(options()))
            local rows, err = conn:query("select pg_sleep(100)", nil, { timeout_ms = 50 })
            assert.is_nil(rows)
            assert.equals("timeout", err.code)
            assert.is_false(conn:is_open())
            conn = mr.check(mr.connect(options()))
            local task = turns.begin(conn.query, conn, "select pg_sleep(100)")
            task:cancel()
            assert.equals("cancelled", select(2, task:wait()).code)
            assert.is_false(conn:is_open())
        end))

        it("that is closed under a query fails it", main(function()
            local conn = mr.check(mr.connect(options()))
            local task = turns.begin(conn.query, conn, "select pg_sleep(100)")
            conn:close()
            assert.equals("connect", select(2, task:wait()).code)
        end))

        it("tells once when it breaks while it is idle", main(function()
            local conn, other = mr.check(mr.connect(options())), mr.check(mr.connect(options()))
            local lost = mr.queue()
            conn:on_lost(function(err)
                assert.is_nil((mr.queue():pop(1))) -- a handler may wait
                lost:push(err)
            end)
            mr.check(other:query("select pg_terminate_backend($1)", { conn:backend_pid() }))
            assert.equals("connect", mr.check(lost:pop(10000)).code)
            assert.is_false(conn:is_open())
            assert.equals("timeout", select(2, lost:pop(20)).code)
        end))

        it("is found by name, with all addresses", main(function()
            local conn = mr.check(mr.connect(options({ host = "localhost" })))
            assert.equals(1, mr.check(conn:query("select 1 as one"))[1].one)
            conn = mr.check(mr.connect(options({ host = "/no/such/dir,localhost" })))
            assert.equals(1, mr.check(conn:query("select 1 as one"))[1].one)
        end))

        it("that cannot be made says why", main(function()
            local conn, err = mr.connect(options({ port = mr.free_port() }))
            assert.is_nil(conn)
            assert.equals("connect", err.code)
            err = select(2, mr.connect(options({ dbname = "no_such_database" })))
            assert.matches("no_such_database", err.message)
            err = select(2, mr.connect(options({ host = "no-such-host.invalid" })))
            assert.is_true(err.code == "connect" or err.code == "timeout")
            for _, wrong in ipairs({ { host = {} }, { connect_timeout_ms = 0 }, { 1 } }) do
                assert.has_error(function()
                    mr.connect(wrong)
                end)
            end
        end))

        it("that was forgotten is closed", main(function()
            local pid = mr.check(mr.connect(options())):backend_pid()
            collectgarbage()
            collectgarbage()
            local conn = mr.check(mr.connect(options()))
            repeat
                local row = mr.check(conn:query(
                    "select count(*)::int as n from pg_stat_activity where pid = $1", { pid }))[1]
            until row.n == 0
        end))
    end)

    describe("a prober", function()
        local function observing()
            local seen = mr.queue()
            return mr.prober({
                interval_ms = 20,
                observed = function(observation)
                    seen:push(observation)
                end,
            }), seen
        end

        it("observes", main(function()
            local prober, seen = observing()
            prober:set(7, { conn = options() })
            local first = mr.check(seen:pop(10000))
            assert.same({ 7, "ok", false }, { first.dbid, first.evidence, first.in_recovery })
            assert.is_number(first.lsn)
            assert.matches("^%d+$", first.sysid)
            assert.equals(0, first.waiting)
            prober:set(7, { conn = options(), sysid = "1" })
            repeat
                local next_one = mr.check(seen:pop(10000))
            until next_one.evidence == "wrong_system"
            prober:drop(7)
            prober:close()
            prober:close()
        end))

        it("finds the addresses of names", main(function()
            local prober, seen = observing()
            prober:set(7, { conn = options({ host = "localhost" }) })
            assert.equals("ok", mr.check(seen:pop(10000)).evidence)
            prober:drop(7)
            prober:set(8, { conn = options({ host = "nowhere.invalid" }) })
            local last
            repeat
                last = mr.check(seen:pop(20000))
            until last.dbid == 8
            assert.equals("unresolved", last.evidence)
            prober:set(9, { conn = options({ host = "elsewhere.invalid" }) })
            prober:close()
        end))

        it("refuses wrong use", main(function()
            local wrongs = { {}, { observed = 1 }, { observed = print, interval_ms = 0 } }
            for _, wrong in ipairs(wrongs) do
                assert.has_error(function()
                    mr.prober(wrong)
                end)
            end
            local prober = mr.prober({ observed = function() end })
            assert.has_error(function()
                prober:set(1, {})
            end)
            assert.has_error(function()
                prober:set(1, { conn = {}, slot = "x" })
            end)
        end))
    end)
end)
