--- Recoveries from one host to another while power goes, links are cut and commands end: each ends
--- in time and says why, leaves the catalog's row as it was, and is simply run again; nobody else's
--- recovery suffers from it.

local far_of = require("tests.lib.far")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
-- With the command, or soon after it has fallen silent, the work on all hosts is over.
local OVER_S = 30
-- At this rate a copy takes longer than it takes to notice that somebody is silent.
local SLOW_MBIT_S = 8

describe("a recovery from another host", function()
    local place, far, cluster, lab

    setup(function()
        place = place_of.new()
        far = far_of.new(place, { mirrors = { "sdw2", "sdw3", "sdw4" } })
        cluster, lab = far.cluster, far.lab
    end)

    teardown(place_of.close_all)

    local test = far_of.tests(getfenv(), function()
        return far
    end)

    local function comes_up(content)
        cluster:wait_row({ content = content, role = "m", status = "u", mode = "s" }, SOON_S)
    end

    local function agents_end()
        for _, host in ipairs(lab.hosts) do
            wait.eventually("the agents of " .. host.name .. " to end", OVER_S, function()
                return far:no_agents(host.name)
            end)
        end
    end

    test("whose command is killed: nobody works on", function()
        far:lose(0)
        far:lose(1)
        local run = far:copying({ 0, 1 }, "-F")
        run:kill("KILL")
        agents_end()
        far:runs_again({ 0, 1 })
    end)

    test("whose command is cut off from all: nobody works on", function()
        far:lose(0)
        far:once(lab:link("sdw1", "sdw2", { mbit_s = SLOW_MBIT_S }))
        local run = far:copying({ 0 }, "-F")
        local mend = far:once(lab:isolate("cdw"))
        far:fails(run, 0, "sdw2")
        agents_end()
        mend()
        far:runs_again({ 0 })
    end, "long")

    test("stopped by SIGTERM: what is done stays, what is not is as before", function()
        far:lose(0)
        far:lose(1)
        local mend = far:once(lab:link("sdw1", "sdw2", { mbit_s = SLOW_MBIT_S }))
        local run = far:copying({ 0 }, "-F")
        comes_up(1)
        run:kill("TERM")
        far:fails(run, 0, "sdw2", "run recoverseg again")
        agents_end()
        assert.are.same({}, cluster:catalog("select * from content_lease"))
        assert.are.same({ "u", "s" }, { cluster:mirror(1).status, cluster:mirror(1).mode })
        mend()
        far:runs_again({ 0, 1 })
    end)

    test("whose host loses its power, or its link to the source: the others come up", function()
        for content = 0, 2 do
            far:lose(content)
        end
        local run = far:copying({ 0, 1, 2 }, "--differential")
        local on = far:power_off("sdw2")
        local mend = far:once(lab:cut("sdw1", "sdw3"))
        far:fails(run, 0, "the agent of host sdw2")
        far:fails(run, 1, "dbid " .. cluster:mirror(1).dbid, "host sdw1")
        comes_up(2)
        on()
        mend()
        far:runs_again({ 0, 1, 2 })
    end, "long")

    test("whose source's host loses its power", function()
        far:lose(0)
        local run = far:copying({ 0 }, "-F")
        local on = far:power_off("sdw1")
        far:fails(run, 0, "sdw1")
        on()
        cluster:moonrise({ "start", "-a" })
        far:runs_again({ 0, 1, 2 })
    end, "long")

    for _, way in ipairs({ { "sdw1", "sdw2" }, { "sdw2", "sdw1" } }) do
        test(("that loses what %s sends to %s"):format(way[1], way[2]), function()
            far:lose(0)
            local run = far:copying({ 0 }, "-F")
            local mend = far:once(lab:cut(way[1], way[2], { one_way = true }))
            far:fails(run, 0, "sdw1", "sdw2")
            mend()
            far:runs_again({ 0 })
        end, "long")
    end
end)
