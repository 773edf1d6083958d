--- The catalog's SQL on a stock server: what it allows, what it refuses, and what it leaves behind.

local catalog = require("tests.lib.catalog")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local must, value, refused = catalog.must, catalog.value, catalog.refused
local server
local lease, add, pair, arm = catalog.lease, catalog.add, catalog.pair, catalog.arm

local LAST_HISTORY = "select description from gp_configuration_history order by time desc"

describe("catalog", function()
    local token, coordinator

    setup(function()
        catalog.open()
        server = catalog.server
    end)

    teardown(place_of.close_all)

    before_each(function()
        token, coordinator = catalog.fresh()
    end)

    describe("a pair's way", function()
        it("goes from not in sync to in sync to promoted, with a line for each step", function()
            assert.equal("3ppnu 4mmnu", pair(0))
            arm(token, 0)
            assert.equal("3ppsu 4mmsu", pair(0))
            value(("promote(%s, 0, 4, '{\"reason\": \"the primary is gone\"}')"):format(token))
            assert.equal("3mpnd 4pmnu", pair(0))
            assert.equal("spec: update role, status, and mode for dbid 4 with contentid 0 to " ..
                "p, u, and n", must(LAST_HISTORY)[1].description)
            local promoted = "from journal where kind = 'promote'"
            assert.equal("the primary is gone", value("select text " .. promoted))
            assert.equal("f", value("select data ? 'accept_loss' " .. promoted))
            value(("mirror_up(%s, 0, 'recovered')"):format(token))
            assert.equal("3mpnu 4pmnu", pair(0))
        end)

        it("takes an epoch for each step, and none where nothing is to do", function()
            local before = tonumber(value("select epoch from cluster_state"))
            assert.equal(before + 1, tonumber(value(("mirror_down(%s, 0, 'gone')"):format(token))))
            assert.equal(before + 1, tonumber(value(("mirror_down(%s, 0, 'gone')"):format(token))))
            assert.equal(before + 2, tonumber(value(("mirror_up(%s, 0, 'back')"):format(token))))
            assert.equal(tostring(before + 2), value("select epoch from cluster_state"))
        end)

        it("hands roles over with the proof of a clean shutdown", function()
            local call = ("hand_over(%s, 0, '%%s')"):format(token)
            local proof = '{"shutdown_end": "0/5", "flush_lsn": "0/5"}'
            refused("MR001", "not in sync", "select " .. call:format(proof))
            arm(token, 0)
            refused("MR001", "was not seen shut down", "select " .. call:format("{}"))
            refused("MR001", "was seen at (nothing)",
                "select " .. call:format('{"shutdown_end": "0/5"}'))
            for _, other in ipairs({ "0/4", "0/6" }) do
                refused("MR001", "was seen at " .. other,
                    "select " .. call:format(proof:gsub("0/5\"}", other .. '"}')))
            end
            refused("MR004", "no positions", "select " .. call:format(proof:gsub("0/5", "x")))
            assert.equal("3ppsu 4mmsu", pair(0))
            local epoch = value(call:format(proof))
            assert.equal("3mpnd 4pmnu", pair(0))
            assert.equal(epoch, value("select role_epoch from pair_state where content = 0"))
        end)

        it("records a promotion that was carried out, once, under the epoch of the change",
            function()
            arm(token, 0)
            local epoch = value(("promote(%s, 0, 4, '{}')"):format(token))
            refused("MR003", "not changed with epoch 1",
                ("select promoted(%s, 0, 1, 2, '0/9')"):format(token))
            for _ = 1, 2 do
                value(("promoted(%s, 0, %s, 2, '0/9000')"):format(token, epoch))
            end
            assert.same({ { timeline = "2", switch_lsn = "0/9000" } },
                must("select timeline, switch_lsn from promotion"))
            assert.equal("1", value("select count(*) from journal where kind = 'promoted'"))
        end)

        it("knows the highest timeline that a pair has in common", function()
            local known = "select timeline from pair_state where content = 0"
            assert.equal("1", value(known))
            arm(token, 0)
            local epoch = value(("promote(%s, 0, 4, '{}')"):format(token))
            value(("promoted(%s, 0, %s, 2, '0/9000')"):format(token, epoch))
            assert.equal("2", value(known))
            for _, seen in ipairs({ 5, 5, 3 }) do
                value(("timeline_seen(%s, 0, %d)"):format(token, seen))
                assert.equal("5", value(known))
            end
            assert.equal("1", value("select count(*) from journal where kind = 'timeline'"))
        end)
    end)

    describe("refuses to promote", function()
        it("what is not in sync, unless the loss is accepted in writing", function()
            local call = ("promote(%s, 0, 4, '{}', %%s)"):format(token)
            refused("MR001", "may lose commits", "select " .. call:format("null"))
            refused("MR001", "may lose commits", "select " .. call:format("'  '"))
            assert.equal("3ppnu 4mmnu", pair(0))
            value(call:format("'ops: the disk is dust'"))
            assert.equal("3mpnd 4pmnu", pair(0))
            assert.equal("ops: the disk is dust",
                value("select data ->> 'accept_loss' from journal where kind = 'promote'"))
        end)

        it("what is down, what is primary already, what is of another content", function()
            value(("mirror_down(%s, 0, 'gone')"):format(token))
            refused("MR001", "not in sync", ("select promote(%s, 0, 4, '{}')"):format(token))
            refused("MR003", "the primary of content 0 already",
                ("select promote(%s, 0, 3, '{}')"):format(token))
            refused("MR004", "not the mirror", ("select promote(%s, 0, 2, '{}')"):format(token))
        end)

        it("the coordinator's standby", function()
            arm(coordinator, -1)
            refused("MR001", "is not promoted like a segment",
                ("select promote(%s, -1, 2, '{}', 'loss')"):format(coordinator))
            refused("MR001", "not handed over",
                ("select hand_over(%s, -1, '{}')"):format(coordinator))
        end)
    end)

    describe("records in sync only", function()
        local EVIDENCE = '{"name":"mr_0_4_%s", "insert_lsn":"%s", "flush_lsn":"%s", "timeline":3}'

        local function in_sync(epoch, evidence)
            return ("select in_sync(%s, 0, %s, '%s')"):format(token, epoch, evidence)
        end

        it("with the epoch that was reserved last for the pair", function()
            local first = value(("epoch_reserve(%s, 0, 'arm')"):format(token))
            value(("epoch_reserve(%s, 0, 'something else')"):format(token))
            refused("MR003", "arm it again", in_sync(first, EVIDENCE:format(first, "0/1", "0/1")))
            local second = value(("epoch_reserve(%s, 0, 'arm')"):format(token))
            value(("mirror_down(%s, 0, 'gone')"):format(token))
            value(("mirror_up(%s, 0, 'back')"):format(token))
            refused("MR003", "arm it again", in_sync(second, EVIDENCE:format(second, "0/1", "0/1")))
        end)

        it("under the name of that mirror and that epoch", function()
            local epoch = value(("epoch_reserve(%s, 0, 'arm')"):format(token))
            refused("MR001", "armed with the name",
                in_sync(epoch, EVIDENCE:format(epoch - 1, "0/1", "0/1")))
            refused("MR001", "armed with the name (none)", in_sync(epoch, "{}"))
        end)

        it("when the mirror has flushed what the primary had written", function()
            local epoch = value(("epoch_reserve(%s, 0, 'arm')"):format(token))
            refused("MR001", "flushed", in_sync(epoch, EVIDENCE:format(epoch, "1/0", "0/FFFFFFFF")))
            refused("MR001", "the history", in_sync(epoch, ('{"name": "mr_0_4_%s"}'):format(epoch)))
            refused("MR001", "flushed",
                in_sync(epoch, ('{"name": "mr_0_4_%s", "timeline": 1}'):format(epoch)))
            refused("MR004", "no positions", in_sync(epoch, EVIDENCE:format(epoch, "x", "y")))
            refused("MR001", "somebody else promoted",
                in_sync(epoch, EVIDENCE:format(epoch, "1/0", "1/0")))
            value(("timeline_seen(%s, 0, 3)"):format(token))
            must(in_sync(epoch, EVIDENCE:format(epoch, "1/0", "1/0")))
            assert.equal("mr_0_4_" .. epoch .. " 3", value("select armed_name || ' ' || " ..
                "armed_timeline from pair_state where content = 0"))
        end)

        it("with a mirror that is up", function()
            value(("mirror_down(%s, 0, 'gone')"):format(token))
            local epoch = value(("epoch_reserve(%s, 0, 'arm')"):format(token))
            refused("MR001", "recorded as down",
                in_sync(epoch, EVIDENCE:format(epoch, "0/1", "0/1")))
        end)
    end)

    describe("lets nobody change anything", function()
        it("without a lease", function()
            refused("MR002", "does not hold the watcher's lease",
                "select mirror_down(null, 0, 'x')")
            refused("MR002", "is not held any more", "select mirror_down(999, 0, 'x')")
            refused("MR002", "is not held any more",
                ("select mirror_down(%s, 0, 'x')"):format(coordinator))
            refused("MR002", "is not held any more",
                ("select instance_remove(%s, 4)"):format(coordinator))
            value(("lease_drop(%s)"):format(token))
            refused("MR002", "is not held any more",
                ("select epoch_reserve(%s, 0, 'x')"):format(token))
        end)

        it("with a lease that has expired", function()
            value(("lease_step(%s, 'last', '1 millisecond')"):format(token))
            wait.eventually("the lease to expire", wait.SOON_S, function()
                return value("select expires <= clock_timestamp() from content_lease " ..
                    "where content = 0") == "t"
            end)
            refused("MR002", "has expired", ("select mirror_down(%s, 0, 'x')"):format(token))
            refused("MR002", "not held any more",
                ("select lease_step(%s, 'x', '1 s')"):format(token))
            local new = lease(0)
            assert.equal("last",
                value("select data ->> 'left_step' from journal where kind = 'lease' " ..
                "order by id desc limit 1"))
            value(("mirror_down(%s, 0, 'x')"):format(new))
        end)

        it("with a lease that was renewed while they looked", function()
            local inherit = ("lease_inherit(%s, 'heir', '1 minute', %%s)"):format(token)
            refused("MR003", "was renewed", "select " .. inherit:format("false"))
            value(("lease_step(%s, 'last', '1 millisecond')"):format(token))
            local heir
            wait.eventually("the lease to expire", wait.SOON_S, function()
                local rows = catalog.try("select " .. inherit:format("false"))
                heir = rows and rows[1].lease_inherit
                return heir
            end)
            refused("MR003", "is not there any more", "select " .. inherit:format("true"))
            value(("lease_inherit(%s, 'next', '1 minute', true)"):format(heir))
            assert.equal("next", value("select holder from content_lease where content = 0"))
        end)

        it("by ending one that was renewed, or is not there", function()
            local ending = ("select lease_drop(lease_inherit(%s, 'heir', '1 minute', %%s))")
                :format(token)
            refused("MR003", "was renewed", ending:format("false"))
            catalog.must(ending:format("true"))
            refused("MR003", "is not there any more", ending:format("true"))
            assert.equal("0", value("select count(*) from content_lease where content = 0"))
        end)

        it("that somebody else holds", function()
            refused("MR003", "in the hands of spec (spec, begin)",
                "select lease_take(0, 'me', 'x', 'y', '1 s')")
            refused("MR004", "up to an hour", "select lease_take(7, 'me', 'x', 'y', '2 hours')")
        end)

        it("by writing to the tables", function()
            local statements = {
                "update gp_segment_configuration set mode = 's'", "delete from journal",
                "insert into gp_configuration_history values (now(), 1, 'x')",
                "update cluster_state set epoch = 0", "truncate promotion",
                "insert into content_lease values (0, 1, 'x', 'x', 'x', now(), now())",
                "select next_epoch()", "select pair_epoch(0)", "select set_pair(0, 's', 'u')",
                "select authorise(1, 0)", "select swap_roles(0)", "select cluster_create('x', 'y')",
                "create table moonrise.x (i int)", "create table public.x (i int)",
            }
            for _, statement in ipairs(statements) do
                refused("42501", "permission denied", statement)
            end
        end)

        it("not even the superuser, past the functions", function()
            local function super(words, sql)
                local rows, message = server:try_sql(sql, { dbname = catalog.database })
                assert.is_nil(rows, sql)
                assert.matches(words, message, 1, true)
            end
            super("by the catalog's functions only",
                "update gp_segment_configuration set mode = 's'")
            super("by the catalog's functions only", "delete from gp_segment_configuration")
            super("it only grows", "truncate gp_segment_configuration")
            super("it only grows", "delete from journal")
            super("it only grows", "update gp_configuration_history set description = ''")
            super("never goes back", "update cluster_state set epoch = 0")
        end)
    end)

    describe("keeps pairs sound, whatever a function does:", function()
        -- As if a function had a bug: the superuser takes an epoch and writes.
        local function break_it(words, sql)
            local rows, message = server:try_sql("begin; " ..
                "set local search_path = pg_catalog, moonrise; " ..
                "select next_epoch(); " .. sql .. "; commit", { dbname = catalog.database })
            assert.is_nil(rows, sql)
            assert.matches(words, message, 1, true)
        end
        local update = "update moonrise.gp_segment_configuration set "

        it("no two primaries", function()
            break_it("one_primary", update .. "role = 'p' where dbid = 4")
            refused("MR004", "one_primary",
                "select " .. catalog.INSTANCE:format(token, 0, "p", 6050, 50, 50, 6050))
        end)

        it("no pair without a primary", function()
            break_it("0 primaries", update .. "role = 'm' where dbid = 3")
        end)

        it("no third instance", function()
            refused("MR001", "has 3 instances",
                "select " .. catalog.INSTANCE:format(token, 0, "m", 6050, 50, 50, 6050))
        end)

        it("no modes that differ", function()
            break_it("differ inside the pair", update .. "mode = 's' where dbid = 3")
        end)

        it("no primary that is down", function()
            break_it("never recorded as down", update .. "status = 'd' where dbid = 3")
        end)

        it("no sync with a mirror that is down", function()
            break_it("not up", update .. "mode = 's', status = case role when 'm' then 'd' " ..
                "else 'u' end where content = 0")
        end)
    end)

    it("has room for segments without mirrors, and takes mirrors away", function()
        local other = lease(1)
        add(other, 1, "p", 6002)
        refused("MR004", "has no mirror", ("select mirror_down(%s, 1, 'x')"):format(other))
        refused("MR001", "only mirrors", ("select instance_remove(%s, 3)"):format(token))
        arm(token, 0)
        value(("instance_remove(%s, 4, '%s')"):format(token,
            catalog.record("h0", "h32", "h33")))
        assert.equal("3ppnu", pair(0))
    end)

    it("never gives out an epoch that a host has seen", function()
        value("epoch_seen(5000)")
        assert.equal("5001", value(("epoch_reserve(%s, 0, 'x')"):format(token)))
        value("epoch_seen(40)")
        assert.equal("5002", value(("epoch_reserve(%s, 0, 'x')"):format(token)))
    end)

    it("takes no host's word for an epoch that leaves no room for the next ones", function()
        local epoch = tonumber(value("select epoch from cluster_state"))
        for _, seen in ipairs({ "9223372036854775807", epoch + 1000000001 }) do
            refused("MR004", "is out of reach", ("select epoch_seen(%s)"):format(seen))
        end
        assert.equal(tostring(epoch), value("select epoch from cluster_state"))
        value(("epoch_seen(%d)"):format(epoch + 1000000000))
        value(("epoch_reserve(%s, 0, 'x')"):format(token))
    end)

    it("commits without the standby", function()
        server:sql("alter system set synchronous_standby_names = 'nobody'; select pg_reload_conf()")
        finally(function()
            server:sql("alter system reset synchronous_standby_names; select pg_reload_conf()")
        end)
        wait.eventually("the setting to be effective", wait.SOON_S, function()
            return server:value("current_setting('synchronous_standby_names')") == "nobody"
        end)
        value(("mirror_down(%s, 0, 'gone')"):format(token))
        value(("lease_drop(%s)"):format(token))
        value("journal_add('spec', 0, 3, 'text', '{\"a\": 1}')")
        assert.equal("3ppnu 4mmnd", pair(0))
    end)

    it("keeps a sample of what the primaries' senders do", function()
        value("replication_sample_set('[{\"gp_segment_id\": 0, \"sync_state\": \"sync\", " ..
            "\"flush_lsn\": \"0/77\", \"write_lag\": \"00:00:01\"}]')")
        assert.same({ { gp_segment_id = "0", flush_lsn = "0/77", s = "1.000000" } },
            must("select gp_segment_id, flush_lsn, extract(epoch from write_lag) as s " ..
                "from gp_stat_replication"))
        value("replication_sample_set('[]')")
        assert.equal("0", value("select count(*) from gp_stat_replication"))
    end)
end)

describe("catalog: the watcher", function()
    local token, sessions

    local function session()
        local dbname = catalog.database
        local new = setmetatable({ dbname = dbname }, { __index = server }):session(dbname)
        sessions[#sessions + 1] = new
        new:ask("set session authorization moonrise")
        return new
    end

    setup(function()
        catalog.open()
        server = catalog.server
    end)

    teardown(place_of.close_all)

    before_each(function()
        sessions = {}
        token = catalog.fresh()
    end)

    after_each(function()
        for _, one in ipairs(sessions) do
            one:close()
        end
    end)

    it("is one, holds its lease as long as its session lasts, and may take it twice", function()
        local first, second = session(), session()
        assert.matches("%d+", first:ask("select watcher_lease_take('one')"))
        assert.matches("%d+", first:ask("select watcher_lease_take('one')"))
        assert.equal("\n", second:ask("select watcher_lease_take('two')"))
        first:close()
        wait.eventually("the lease to be free", wait.SOON_S, function()
            return second:ask("select watcher_lease_take('two')"):match("%d")
        end)
        assert.equal("two", value("select watcher from cluster_state"))
    end)

    it("loses its lease when its session falls silent", function()
        local first = session()
        first:ask("select watcher_lease_take('one')")
        assert.equal("5s\n", first:ask("show idle_session_timeout"))
        wait.eventually("the server to drop the session", wait.SOON_S, function()
            return value("select watcher_lease_take('two')")
        end)
    end)

    it("leaves a leased content alone, and a stopped cluster", function()
        local watcher = session()
        watcher:ask("select watcher_lease_take('one')")
        assert.matches("content 0 is in the hands of spec",
            watcher:ask("select mirror_down(null, 0, 'x')"))
        value(("lease_drop(%s)"):format(token))
        assert.matches("hand_over needs the lease of the content", watcher:ask("select " ..
            "hand_over(null, 0, '{\"shutdown_end\": \"0/5\", \"flush_lsn\": \"0/5\"}')"))
        local stale = "mirror_down(null, 0, 'x', '{}', epoch - 1) from pair_state where content = 0"
        assert.matches("content 0 has changed since epoch %d", watcher:ask("select " .. stale))
        assert.matches("^%d+\n$", watcher:ask("select " .. (stale:gsub(" %- 1", ""))))
        assert.equal("FTS: update role, status, and mode for dbid 4 with contentid 0 to " ..
            "m, d, and n", value(LAST_HISTORY .. " limit 1"))
        refused("MR002", "the lease of content", "select cluster_set_state('{}', 'stopped', 'x')")
        local tokens = { lease(0), value("select token from content_lease where content = -1") }
        local list = "'{" .. table.concat(tokens, ",") .. "}'"
        value(("cluster_set_state(%s, 'stopped', 'x')"):format(list))
        value(("lease_drop(%s)"):format(tokens[1]))
        assert.matches("the cluster is stopped", watcher:ask("select mirror_up(null, 0, 'x')"))
    end)

    it("and a runbook wait for each other; the second sees what the first did", function()
        arm(token, 0)
        local one, two = session(), session()
        one:ask("begin")
        one:ask(("select promote(%s, 0, 4, '{}')"):format(token))
        two:send(("select promote(%s, 0, 4, '{}')"):format(token))
        wait.eventually("the second to wait for the first", wait.SOON_S, function()
            return server:value("exists (select from pg_stat_activity " ..
                "where wait_event_type = 'Lock')") == "t"
        end)
        one:ask("commit")
        assert.matches("is the primary of content 0 already", two:answer())
        assert.equal("3mpnd 4pmnu", pair(0))
    end)
end)
