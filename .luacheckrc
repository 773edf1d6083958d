-- What luacheck knows beyond LuaJIT itself.
std = "luajit"
max_line_length = false -- tests/lint knows which lines cannot be broken
codes = true
-- A method keeps its parameters even where it does not use them.
self = false

files["scripts/meta"] = { ignore = { "212", "241", "211" } }
files["tests"] = { std = "+busted" }
files["policies"] = {
    std = {
        read_globals = {
            "assert", "error", "ipairs", "next", "pairs", "pcall", "select", "tonumber", "tostring",
            "type", "unpack", "math", "string", "table",
        },
    },
}
