--- `moonrise start`, killed: the cluster counts as stopped until the next one, which finishes it.
--- Meanwhile nothing is promoted or released, whatever dies, and people are told.

local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
-- For how long it is watched that nothing is done.
local ALONE_S = 1.5
local CAMPAIGN = os.getenv("MOONRISE_CAMPAIGN")

describe("start, killed", function()
    local place, cluster, watch, primary, mirror, epoch
    local kept = 0

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1 })
        cluster:init()
        primary, mirror = cluster:primary(0), cluster:mirror(0)
        primary:sql("create table kept (t text)")
        watch = cluster:watched()
    end)

    teardown(place_of.close_all)

    before_each(function()
        cluster:wait_healthy()
        primary:sql("insert into kept values ('acknowledged')")
        kept = kept + 1
        cluster:must({ "stop", "-a" })
        epoch = tonumber(place_of.read(primary.datadir .. "/moonrise.epoch")
            :match("epoch = '(%d+)'"))
    end)

    local function asks(sql)
        return cluster:coordinator():try_sql(sql, { dbname = "moonrise" })
    end

    local STEPS = {
        { "the coordinator is there", function()
            return cluster:coordinator():running()
        end, long = true },
        { "its catalog answers", function()
            return asks("select 1")
        end },
        { "the content is leased", function()
            local rows = asks("select 1 from moonrise.content_lease where content = 0")
            return rows and rows[1]
        end, long = true },
        { "an instance has its order", function()
            return tonumber(place_of.read(primary.datadir .. "/moonrise.epoch")
                :match("epoch = '(%d+)'")) > epoch
        end, long = true },
        { "the primary runs", function()
            return primary:running()
        end },
        { "the mirror runs", function()
            return mirror:running()
        end, long = true },
    }

    local function last_id()
        return cluster:catalog("select coalesce(max(id), 0) as id from journal")[1].id
    end

    -- What runs is ended, what does not stays so: by its rows nothing has happened to the pair.
    local function left_alone(rows)
        for _, server in ipairs({ primary, mirror }) do
            if server:running() then
                server:kill("KILL")
            end
        end
        wait.always("the pair is left alone", ALONE_S, function()
            return pcall(assert.are.same, rows, cluster:rows())
        end)
    end

    local function told(since)
        wait.eventually("people to be told", SOON_S, function()
            return cluster:catalog(("select 1 from journal where id > %s and kind = 'alert' " ..
                "and text like '%%counts as stopped%%'"):format(since))[1], watch:output()
        end)
        local result = cluster:moonrise({ "state", "-e" })
        assert.equal(1, result.code)
        assert.matches("the Cluster Counts as Stopped", result.out, 1, true)
    end

    for _, step in ipairs(STEPS) do
        local try = (step.long and not CAMPAIGN) and function() end or it
        try("once " .. step[1] .. ", is finished by the next", function()
            local run = cluster:start({ "start", "-a" })
            wait.eventually(step[1], SOON_S, function()
                return step[2]() or run:code()
            end)
            run:kill("KILL")
            run:wait(SOON_S)
            wait.eventually("the catalog to answer", SOON_S, function()
                return asks("select 1")
            end)
            local since = last_id()
            assert.equal("stopped", cluster:catalog("select state from cluster_state")[1].state)
            left_alone(cluster:rows())
            told(since)
            cluster:must({ "start", "-a" })
            cluster:wait_healthy()
            assert.equal(primary.datadir, cluster:primary(0).datadir)
            assert.equal("0", cluster:catalog("select count(*) as n from journal " ..
                "where kind in ('promote', 'mirror_down')")[1].n)
            assert.equal(tostring(kept), primary:value("(select count(*) from kept)"))
        end)
    end
end)
