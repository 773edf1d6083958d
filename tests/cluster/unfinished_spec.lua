--- What is left when a connection or a runbook ends in the middle of arming or handing over.

local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S

-- Arms content 0 anew, and loses the catalog's answer to in_sync, which was carried out.
local LOSES_THE_ANSWER = [[
local arming = require("lib.arming")
local cluster = require("lib.cluster")
local mr = require("moonrise")
local session = require("lib.session")

local function arm(ctx)
    local pair = cluster.pair(mr.check(ctx.cat:instances()), 0)
    local token = mr.check(ctx.cat:call("lease_take", 0, "spec", "start", "x", "2 seconds"))
    mr.check(ctx.cat:call("out_of_sync", token, 0, "spec"))
    local call = ctx.cat.call
    function ctx.cat.call(cat, fn, ...)
        local value, err = call(cat, fn, ...)
        if fn == "in_sync" and value then
            cat:close()
            return nil, mr.error("connect", "the answer was lost")
        end
        return value, err
    end
    local ok, err = arming.arm(ctx, pair, token)
    return not ok and err.message:find("the answer was lost", 1, true) and 0 or 9
end

return { summary = "spec", usage = "", description = "spec", options = {}, main = function(opts)
    return session.with(opts, arm)
end }
]]

describe("what was not finished:", function()
    local place, cluster

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1 })
        cluster:init()
    end)

    teardown(place_of.close_all)

    it("a primary is not released while the catalog may say s", function()
        local file = place:write("arm.lua", LOSES_THE_ANSWER)
        cluster:must({ "run", file })
        assert.are.equal("s", cluster:mirror(0).mode)
        local names = cluster:primary(0):value("current_setting('synchronous_standby_names')")
        assert.matches("^mr_0_", names)
    end)

    it("a handover that cannot be finished leaves the pair to the watcher", function()
        wait.eventually("the lease of the case before to expire", SOON_S, function()
            return #cluster:catalog("select content from content_lease " ..
                "where expires > clock_timestamp()") == 0
        end)
        cluster:catalog("select moonrise.lease_take(0, 'spec', 'handover', 'handed', '3 seconds')")
        local watch = cluster:watch()
        watch:says("left handover at step handed", SOON_S)
        wait.eventually("the lease to be dropped", SOON_S, function()
            return #cluster:catalog("select content from content_lease") == 0, watch:output()
        end)
        local mirror = cluster:mirror(0)
        cluster:primary(0):kill()
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        wait.eventually("the mirror to be promoted", SOON_S, function()
            return mirror:value("pg_is_in_recovery()") == "f", watch:output()
        end)
        cluster:must({ "recoverseg", "-a" })
        cluster:wait_healthy()
        watch:kill("TERM")
        watch:wait(SOON_S)
    end)

    it("no slot is left on a primary that was handed over and is the mirror now", function()
        local was = cluster:primary(0).dbid
        cluster:must({ "recoverseg", "-a", "-r" })
        assert.are.equal(was, cluster:mirror(0).dbid)
        assert.are.equal("0", cluster:mirror(0):value("select count(*) from pg_replication_slots"))
        assert.are.equal("1", cluster:primary(0):value("select count(*) from pg_replication_slots"))
    end)
end)
