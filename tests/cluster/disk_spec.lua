--- The write probe: a primary whose data directory is full or read-only, seen by the watcher and by
--- `state`, while the server itself still answers.

local cluster_of = require("tests.lib.cluster")
local hurt = require("tests.lib.hurt")
local namespace = require("tests.lib.namespace")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S

describe("a disk that cannot be written", function()
    local place, cluster, watch, alone, why_not

    setup(function()
        alone, why_not = namespace.enter()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1 })
        if alone then
            place:must({ "mkdir", "-m", "700", place:path("primary0") })
            namespace.tmpfs(place:path("primary0"), "200m")
            cluster:init()
            watch = cluster:watched()
        end
    end)

    teardown(function()
        if watch then
            cluster:unwatch(SOON_S)
        end
        place:close()
        if alone then
            namespace.unmount(place:path("primary0"))
        end
    end)

    local function told(kind)
        return cluster:journal({ kind = kind, content = 0 })
    end

    local function last(kind, pattern)
        wait.eventually(("the journal's %s: %s"):format(kind, pattern), SOON_S, function()
            local rows = told(kind)
            local text = rows[1] and rows[#rows].text or ""
            return text:match(pattern), text
        end)
    end

    local function as_it_was(primary)
        local row = cluster:primary(0)
        assert.are.same({ primary.dbid, "s" }, { row.dbid, row.mode })
        assert.are.same({}, told("promote"))
    end

    -- From the first probe that fails to the first that does not.
    local function noticed(primary, why, mend)
        local rows = #told("disk")
        last("disk", ("dbid %s's data directory cannot be written: .*%s"):format(primary.dbid, why))
        last("alert", "the primary's data directory cannot be written: .*" .. why)
        local result = cluster:moonrise({ "state", "-e" })
        assert.are.equal(1, result.code)
        assert.matches("Servers whose Data Directory Cannot Be Written", result.out, 1, true)
        assert.matches(("localhost%%s+%s%%s+[^\n]*%s"):format(primary.port, why), result.out)
        cluster:must({ "watch", "--once" })
        as_it_was(primary)
        mend()
        last("disk", "data directory can be written again")
        cluster:must({ "watch", "--once" })
        assert.are.equal(rows + 2, #told("disk"))
        assert.are.equal("1", primary:value("select 1"))
        assert.are.equal(0, cluster:moonrise({ "state", "-e" }).code)
    end

    it("since it is full is told as it begins and as it ends; the roles stay", function()
        if not alone then
            return pending(why_not)
        end
        local primary = cluster:primary(0)
        noticed(primary, "No space left on device", hurt.fill_disk(place, primary.datadir))
    end)

    it("since it is read-only likewise", function()
        if not alone then
            return pending(why_not)
        end
        local primary, unmounted = cluster:primary(0), false
        local function unmount()
            if not unmounted then
                namespace.unmount(primary.datadir)
                unmounted = true
            end
        end
        finally(unmount)
        namespace.read_only(primary.datadir)
        noticed(primary, "Read%-only file system", unmount)
    end)

    it("ends a primary that writes on: its mirror takes over", function()
        if not alone then
            return pending(why_not)
        end
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        local mend = hurt.fill_disk(place, primary.datadir)
        last("disk", "No space left on device")
        primary:try_sql("create table much as select i, repeat('x', 900) " ..
            "from generate_series(1, 200000) i")
        for _ = 1, 20 do
            primary:try_sql("select pg_logical_emit_message(false, 'm', repeat('x', 1000000)) " ..
                "from generate_series(1, 20)")
        end
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, wait.SOON_S)
        mend()
        cluster:must({ "recoverseg", "-a" })
        cluster:wait_healthy()
        last("disk", "data directory can be written again")
    end)
end)
