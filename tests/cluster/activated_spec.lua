--- Pairs after an activation of the standby coordinator (SAFETY.md, rule 8), whose catalog lacks
--- the last transitions: what the hosts have seen wins.

local cluster_of = require("tests.lib.cluster")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local HOST = "127.0.0.1"

-- An order that a lost catalog gave to a content's primary, and that was on its way.
local LATE_ORDER = [[
local mr = require("moonrise")
local session = require("lib.session")

return { summary = "spec", options = {}, arguments = 2, main = function(opts, rest)
    return session.with(opts, function(ctx)
        local pair = mr.check(ctx.cat:pair(tonumber(rest[1])))
        local done, err = ctx.agents:order(pair.primary, "release", { epoch = tonumber(rest[2]) },
            { timeout_ms = 30000 })
        mr.out(done and "carried out" or err.code)
        return 0
    end)
end }
]]

describe("after an activation", function()
    local place, cluster, watch

    local function row(content)
        return cluster:catalog(("select unconfirmed from pair_state where content = %d")
            :format(content))[1]
    end

    -- What an activation does to the server, by hand; the coordinator dies.
    local function activate(standby)
        local ctl = pg.bin() .. "/pg_ctl"
        cluster:coordinator():kill()
        place:must({ ctl, "start", "-w", "-D", standby.datadir, "-l", place:path("standby.log") })
        place:must({ ctl, "promote", "-w", "-D", standby.datadir })
        cluster.datadir = standby.datadir
        cluster:unconfirm()
    end

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 2, standby = true,
            hosts = { mirror1 = HOST } })
        cluster:init()
        for content = 0, 1 do
            cluster:primary(content):sql("create table ledger (i int)")
        end
        watch = cluster:watched()
    end)

    teardown(place_of.close_all)

    it("a failover that the catalog lacks is found out, and no commit is lost", function()
        local old, new, standby = cluster:primary(0), cluster:mirror(0), cluster:mirror(-1)
        local untouched = cluster:primary(1)
        -- The standby is away while the failover comes about.
        standby:stop()
        cluster:wait_row({ dbid = standby.dbid, status = "d" }, SOON_S)
        old:kill()
        cluster:wait_row({ dbid = new.dbid, role = "p" }, SOON_S)
        wait.eventually("a write on the new primary", SOON_S, function()
            return new:try_sql("insert into ledger values (1)", { timeout_s = 5 })
        end)
        watch:kill("KILL")
        watch:wait(SOON_S)
        activate(standby)
        assert.are.equal(old.dbid, cluster:primary(0).dbid)
        local shown = cluster:moonrise({ "state", "-e" })
        assert.matches("moonrise confirm 0", shown.out)
        assert.matches("moonrise confirm 1", shown.out)

        watch = cluster:watch()
        wait.eventually("both pairs to be confirmed", SOON_S, function()
            return not row(0).unconfirmed and not row(1).unconfirmed, watch:output()
        end)
        assert.are.equal(new.dbid, cluster:primary(0).dbid)
        assert.are.equal(untouched.dbid, cluster:primary(1).dbid)
        cluster:wait_row({ dbid = untouched.dbid, mode = "s" }, SOON_S)
        wait.eventually("the promotion to be recorded", SOON_S, function()
            return cluster:catalog("select epoch from promotion where content = 0")[1],
                watch:output()
        end)
        assert.are.equal("1", new:value("(select count(*) from ledger)"))
        -- The old primary is one no more, for this catalog either.
        wait.eventually("the old primary to be marked", SOON_S, function()
            return not place_of.read(old.datadir .. "/global/pg_control")
        end)
        assert.has_error(function()
            old:start({ timeout_s = 5 })
        end)
    end)

    it("an order that was on its way comes too late once the pair is confirmed", function()
        cluster:unwatch(SOON_S)
        place:write("late.lua", LATE_ORDER)
        cluster:unconfirm()
        local known = tonumber(row(1).unconfirmed)
        cluster:must({ "confirm", "-a" })
        assert.are.equal("s", cluster:primary(1).mode)
        assert.matches("stale", cluster:must({ "run", place:path("late.lua"), "1", known + 1 }))
        local name = cluster:primary(1):value("current_setting('synchronous_standby_names')")
        assert.are_not.equal("", name)
    end)

    it("a host is not taken out of service with a primary that the catalog calls a mirror",
        function()
        local new = cluster:mirror(1)
        local known = cluster:catalog("select * from pair_state where content = 1")[1]
        cluster:must({ "switchover", "-a", "1" })
        new:sql("insert into ledger values (1)")
        -- A catalog that lacks this change of roles, and had the mirror down before it.
        cluster:catalog("select moonrise.swap_roles(1)")
        cluster:catalog(([[update pair_state set unconfirmed = %s, role_epoch = %s, timeline = %s
            where content = 1]]):format(known.epoch, known.role_epoch, known.timeline))
        assert.are.equal("md", cluster:mirror(1).role .. cluster:mirror(1).status)

        local result = cluster:moonrise({ "stop", "-a", "--host", HOST })
        assert.are.equal(1, result.code)
        assert.matches(("by its hosts' word dbid %s is its primary"):format(new.dbid), result.err)
        assert.are.equal(new.dbid, cluster:primary(1).dbid)
        assert.are.equal("1", new:value("(select count(*) from ledger)"))
    end)

    it("a host that cannot tell is done without only in writing", function()
        local primary, mirror = cluster:primary(1), cluster:mirror(1)
        mirror:stop()
        place:must({ "mv", mirror.datadir, mirror.datadir .. ".away" })
        cluster:unconfirm()
        cluster:must({ "confirm", "-a", "0" })
        local result = cluster:moonrise({ "confirm", "-a", "1" })
        assert.are.equal(1, result.code)
        assert.matches("not proven .*has no valid epoch", result.err)
        assert.are.equal(2, cluster:moonrise({ "confirm", "-a", "--accept-loss", "x" }).code)
        assert.are.equal(2, cluster:moonrise({ "confirm", "-a", "1", "--accept-loss", " " }).code)
        assert.is_not_nil(row(1).unconfirmed)
        cluster:must({ "confirm", "-a", "1", "--accept-loss", "ops: the disk is dust" })
        assert.is_nil(row(1).unconfirmed)
        assert.are.equal(primary.dbid, cluster:primary(1).dbid)
        assert.are.equal("n", cluster:primary(1).mode)
        assert.matches("Nothing is unconfirmed", cluster:must({ "confirm" }))
    end)
end)
