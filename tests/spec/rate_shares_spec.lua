local rate_shares = require("lib.rate_shares")

local function copy(source, target, max_rate)
    return { source = { hostname = source }, target = { hostname = target }, max_rate = max_rate }
end

local function shared(copies, opts)
    opts.hosts, opts.batch = opts.hosts or 16, opts.batch or 64
    rate_shares.share(copies, opts)
    local list = {}
    for i, each in ipairs(copies) do
        list[i] = each.max_rate or 0
    end
    return list
end

describe("rates of copies", function()
    it("are unlimited unless somebody limits them", function()
        assert.same({ 0, 0 }, shared({ copy("a", "b"), copy("b", "a") }, {}))
    end)

    it("share the run's among those that run at once", function()
        assert.same({ 500, 500 }, shared({ copy("a", "b"), copy("c", "d") }, { max_rate = 1000 }))
        assert.same({ 1000, 1000 },
            shared({ copy("a", "b"), copy("c", "b") }, { max_rate = 1000, batch = 1 }))
        assert.same({ 500, 500, 500 }, shared({ copy("a", "b"), copy("a", "b"), copy("a", "c") },
            { max_rate = 1000, batch = 2, hosts = 1 }))
    end)

    it("share a host's among those that read or write there", function()
        -- a is the source of two and the target of one.
        assert.same({ 300, 300, 300, 900 },
            shared({ copy("a", "b"), copy("a", "c"), copy("d", "a"), copy("e", "f") },
                { max_rate_host = 900 }))
        assert.same({ 900, 900 },
            shared({ copy("a", "b"), copy("a", "b") }, { max_rate_host = 900, batch = 1 }))
    end)

    it("count a copy within one host once", function()
        assert.same({ 900 }, shared({ copy("a", "a") }, { max_rate_host = 900 }))
    end)

    it("take the least, the policy's included", function()
        assert.same({ 100, 450 }, shared({ copy("a", "b", 100), copy("a", "c") },
            { max_rate = 2000, max_rate_host = 900 }))
        assert.same({ 1, 1, 1 },
            shared({ copy("a", "b"), copy("a", "c"), copy("a", "d") }, { max_rate = 2 }))
    end)
end)
