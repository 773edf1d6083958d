--- Which failed host's instances go to which spare host, also after a run that has done some of it.

local spare_hosts = require("lib.spare_hosts")

local function inst(dbid, role, status, host, content)
    return { dbid = dbid, content = content or dbid, role = role, status = status, hostname = host }
end

local function move(dbid, from, to)
    return { dbid = dbid, from_host = from, to_host = to }
end

-- "dbid>spare" of each that is to be recovered, those without a spare host where they are.
local function assigned(spares, instances, moves)
    table.insert(instances, inst(1, "p", "u", "cdw", -1))
    table.insert(instances, inst(2, "p", "u", "sdw1"))
    local list, idle = spare_hosts.assign(spares, instances, moves or {})
    if not list then
        return nil, idle
    end
    local words = {}
    for i, one in ipairs(list) do
        words[i] = one.row.dbid .. ">" .. (one.spare or "")
    end
    return table.concat(words, " "), idle
end

describe("spare hosts", function()
    it("take the failed hosts in their order", function()
        assert.same({ "4>s1 5>s1 6>s2", {} }, { assigned({ "s1", "s2" }, {
            inst(6, "m", "d", "sdw3"), inst(4, "m", "d", "sdw2"), inst(5, "m", "d", "sdw2") }) })
    end)

    it("that are not needed are named", function()
        assert.same({ "4>s1", { "s2" } }, { assigned({ "s1", "s2" },
            { inst(4, "m", "d", "sdw2"), inst(5, "m", "u", "sdw3") }) })
        assert.same({ "", { "s1" } }, { assigned({ "s1" }, {}) })
    end)

    it("are refused when they are too few, or belong to the cluster", function()
        local two = { inst(4, "m", "d", "sdw2"), inst(5, "m", "d", "sdw3") }
        local _, problem = assigned({ "s1" }, two)
        assert.matches("2 hosts have failed instances %(sdw2, sdw3%), and 1 spare", problem)
        for _, host in ipairs({ "cdw", "sdw1", "sdw4" }) do
            _, problem = assigned({ host }, { inst(4, "m", "d", "sdw2"),
                inst(5, "m", "u", "sdw4") })
            assert.matches("host " .. host .. " belongs to the cluster", problem, 1, true)
        end
        _, problem = assigned({ "sdw1" }, { inst(4, "m", "d", "sdw1") })
        assert.matches("host sdw1 belongs to the cluster", problem, 1, true)
    end)

    it("that have got something already are gone on with", function()
        -- One is there and up, one is there and down, one has not moved.
        assert.same({ "5> 6>s1", {} }, { assigned({ "s1" }, { inst(4, "m", "u", "s1"),
            inst(5, "m", "d", "s1"), inst(6, "m", "d", "sdw2") },
            { move(4, "sdw2", "s1"), move(5, "sdw2", "s1") }) })
        assert.same({ "", {} }, { assigned({ "s1" }, { inst(4, "m", "u", "s1") },
            { move(4, "sdw2", "s1") }) })
    end)

    it("to which a copy was begun are not mistaken for one another", function()
        local rows = { inst(4, "m", "u", "s1"), inst(5, "m", "d", "sdw2"),
            inst(6, "m", "d", "sdw3") }
        assert.same({ "5>s1 6>s2", {} }, { assigned({ "s2", "s1" }, rows,
            { move(4, "sdw2", "s1") }) })
        rows = { inst(5, "m", "d", "sdw2"), inst(6, "m", "d", "sdw3") }
        assert.same({ "5>s2 6>s1", {} }, { assigned({ "s1", "s2" }, rows,
            { move(5, "sdw2", "s2") }) })
    end)

    it("are none that serve, whoever was brought there", function()
        local _, problem = assigned({ "sdw1" }, { inst(4, "m", "d", "sdw2"),
            inst(5, "m", "u", "sdw1") }, { move(5, "sdw2", "sdw1"), move(4, "sdw2", "sdw1") })
        assert.matches("host sdw1 belongs to the cluster", problem, 1, true)
    end)

    it("are none that have failed themselves, unless an earlier run has used them", function()
        local _, problem = assigned({ "sdw2" }, { inst(4, "m", "d", "sdw2") })
        assert.matches("host sdw2 belongs to the cluster", problem, 1, true)
        -- A copy that was begun elsewhere has brought nobody here.
        _, problem = assigned({ "sdw2" }, { inst(4, "m", "d", "sdw2") },
            { move(4, "sdw2", "s1"), move(5, "sdw3", "sdw2") })
        assert.matches("host sdw2 belongs to the cluster", problem, 1, true)
    end)

    it("are no others' because somebody was there once", function()
        local _, problem = assigned({ "sdw4" }, { inst(4, "m", "d", "sdw2"),
            inst(5, "m", "u", "sdw4"), inst(6, "m", "u", "sdw5") }, { move(6, "sdw2", "sdw4") })
        assert.matches("host sdw4 belongs to the cluster", problem, 1, true)
    end)
end)
