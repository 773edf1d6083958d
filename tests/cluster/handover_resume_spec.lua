--- A handover whose command is killed where no watcher runs: the next recoverseg or start finishes
--- or undoes it, and a watcher that takes one over keeps its lease for as long as that takes.

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local gate_of = require("tests.lib.gate")
local hurt = require("tests.lib.hurt")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S

local HANDING = "new.step = 'handed' and old.step = 'stopping'"
local HANDED = "exists (select from moonrise.journal j where j.kind = 'hand_over' and " ..
    "j.time > old.taken)"

-- Has no promotion recorded.
local REFUSE = [[
create function public.refuse() returns trigger language plpgsql as $$
begin
    raise exception 'not recorded, for the spec';
end $$;
create trigger refuse before insert on moonrise.promotion
    for each row execute function public.refuse()]]

describe("recoverseg -r, killed without a watcher", function()
    local place, cluster

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1 })
        cluster:init()
        cluster:primary(0):sql("create table grown (t text)")
    end)

    teardown(place_of.close_all)

    -- Every test begins with switched roles, in sync, and nobody who watches.
    before_each(function()
        cluster:watch()
        cluster:mend()
        cluster:switch_roles(0)
        cluster:unwatch(SOON_S)
    end)

    local function killed_at(what, condition)
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        local run = cluster:start({ "recoverseg", "-a", "-r" })
        wait.eventually(what, SOON_S, function()
            return condition(primary, mirror) or run:code()
        end)
        run:kill("KILL")
        run:wait(SOON_S)
        local lease = cluster:catalog("select * from content_lease where content = 0")[1]
        assert.is_truthy(lease, "the command was faster: " .. run:output())
        return primary, mirror, lease
    end

    local function killed_at_gate(condition)
        local gate = gate_of.close(cluster, "update on content_lease", condition)
        local old, new, lease = killed_at("the gate", function()
            return gate:reached()
        end)
        gate:remove()
        assert.are.equal("t", new:value("pg_is_in_recovery()"))
        assert.is_false(old:running())
        return old, new, lease
    end

    -- Killed when the primary is stopped and its roles are about to change.
    local function killed_stopped()
        local primary, mirror, lease = killed_at_gate(HANDING)
        assert.are.equal("stopping", lease.step)
        return primary, mirror
    end

    -- Killed as soon as the roles have changed, before it could do anything else.
    local function killed_handed()
        local old, new, lease = killed_at_gate(HANDED)
        assert.are.equal("handed", lease.step)
        return old, new, lease
    end

    -- `primary` serves, `mirror` follows it, the catalog says so, and nothing is left.
    local function serves(primary, mirror)
        cluster:wait_healthy()
        assert.are.equal(primary.dbid, cluster:primary(0).dbid)
        assert.are.equal("t", mirror:value("pg_is_in_recovery()"))
        primary:sql("insert into grown values ('after')", { timeout_s = wait.SOON_S })
        checkup.slots(primary, mirror)
        assert.are.same({}, cluster:catalog("select * from content_lease"))
    end

    it("is undone by recoverseg while the catalog is unchanged", function()
        local primary, mirror = killed_stopped()
        assert.matches("the handover is undone", cluster:must({ "recoverseg", "-a" }))
        serves(primary, mirror)
    end)

    it("is undone by start while the catalog is unchanged", function()
        local primary, mirror = killed_stopped()
        assert.matches("the handover is undone", cluster:must({ "start", "-a" }))
        serves(primary, mirror)
    end)

    it("is finished by recoverseg -r once the roles have changed", function()
        local old, new = killed_handed()
        local out = cluster:must({ "recoverseg", "-a", "-r" })
        assert.matches("the handover is finished", out)
        serves(new, old)
    end)

    it("is finished by recoverseg once the roles have changed", function()
        local old, new = killed_handed()
        assert.matches("the handover is finished", cluster:must({ "recoverseg", "-a" }))
        serves(new, old)
    end)

    it("is finished when only its lease is left", function()
        local gate = gate_of.close(cluster, "delete on content_lease", "old.step = 'handed'")
        local old, new, lease = killed_at("the gate", function()
            return gate:reached()
        end)
        gate:remove()
        assert.are.equal("handed", lease.step)
        assert.are.equal("s", cluster:primary(0).mode)
        assert.matches("the handover is finished", cluster:must({ "recoverseg", "-a" }))
        serves(new, old)
    end)

    it("is finished by start after everything went down", function()
        local old, new = killed_handed()
        new:kill()
        assert.matches("the handover is finished", cluster:must({ "start", "-a" }))
        serves(new, old)
    end)

    it("is finished by recoverseg when its lease is gone", function()
        local old, new = killed_handed()
        cluster:catalog("delete from content_lease")
        cluster:must({ "recoverseg", "-a" })
        serves(new, old)
    end)

    it("is finished by recoverseg when its promotion could not be recorded", function()
        local old, new = cluster:primary(0), cluster:mirror(0)
        cluster:catalog(REFUSE)
        local result = cluster:moonrise({ "recoverseg", "-a", "-r" })
        cluster:catalog("drop function public.refuse() cascade")
        assert.are.equal(1, result.code)
        assert.matches("not recorded, for the spec", result.err)
        cluster:must({ "recoverseg", "-a" })
        serves(new, old)
        assert.are.same({ { told = "t" } }, cluster:catalog([[
            select m.timeline = p.timeline as told from moonrise.pair_state p
            join moonrise.promotion m on m.content = p.content and m.epoch = p.role_epoch
            where p.content = 0]]))
    end)

    it("has said so in its lease, whatever comes late, and one can take it over", function()
        local old, new, lease = killed_handed()
        cluster:catalog(("select moonrise.lease_step(%s, 'stopping', '1 minute')")
            :format(lease.token))
        local inherit = ("select moonrise.lease_inherit(%s, 'heir', '1 millisecond', true)")
            :format(lease.token)
        cluster:catalog(inherit)
        assert.has_error(function()
            cluster:catalog(inherit)
        end)
        local left = cluster:catalog("select holder, intent, step from content_lease")
        assert.are.same({ { holder = "heir", intent = "handover", step = "handed" } }, left)
        cluster:must({ "recoverseg", "-a" })
        serves(new, old)
    end)

    -- A mirror that comes up as nobody's primary is not called started.
    it("is not called started by start while the catalog's primary is in recovery", function()
        local primary = cluster:primary(0)
        primary:stop("fast")
        place:must({ "touch", primary.datadir .. "/standby.signal" })
        local result = cluster:moonrise({ "start", "-a" })
        primary:stop("fast")
        os.remove(primary.datadir .. "/standby.signal")
        assert.are.equal(1, result.code, result.out)
        assert.matches("is the catalog's primary and is in recovery", result.err)
    end)

    -- The watcher waits while it promotes; `meanwhile` is what is run then.
    local function watcher_at_it(meanwhile)
        local old, new = killed_handed()
        local thaw = hurt.stop_process(new, "startup")
        finally(thaw)
        cluster:watch()
        wait.eventually("the watcher to take it over", SOON_S, function()
            return cluster:catalog("select l.holder from content_lease l, moonrise.cluster_state c "
                .. "where l.content = 0 and l.holder = c.watcher")[1]
        end)
        local run = cluster:start(meanwhile)
        run:says("the watcher is at what is left of a handover", SOON_S)
        thaw()
        assert.are.equal(0, run:wait(SOON_S), run:output())
        return old, new, run:output()
    end

    it("is waited for by recoverseg -r while a watcher finishes it", function()
        local old, new, output = watcher_at_it({ "recoverseg", "-a", "-r" })
        assert.matches("All instances are in their preferred roles", output)
        serves(new, old)
        cluster:unwatch(SOON_S)
    end)

    it("is waited for by switchover while a watcher finishes it", function()
        local old, new, output = watcher_at_it({ "switchover", "-a", "0" })
        assert.matches("roles changed", output)
        serves(old, new)
        cluster:unwatch(SOON_S)
    end)

    it("is finished by a watcher under a lease that is renewed", function()
        local old, new = killed_handed()
        local thaw = hurt.stop_process(new, "startup")
        finally(thaw)
        cluster:catalog("update content_lease set expires = clock_timestamp()")
        cluster:watch()
        local function expires()
            local row = cluster:catalog("select expires from content_lease where content = 0 " ..
                "and expires > clock_timestamp()")[1]
            return row and row.expires
        end
        local first = wait.eventually("the watcher to take it over", SOON_S, expires)
        wait.eventually("the lease to be renewed", wait.SOON_S, function()
            local now = expires()
            return now and now ~= first
        end)
        thaw()
        cluster:wait_healthy()
        serves(new, old)
        cluster:unwatch(SOON_S)
    end)
end)
